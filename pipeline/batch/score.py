"""Scores everything of one or more sources into one Parquet table, a row for each file, whatever happens.

The same files, package and runtime give the same bytes: with any number of workers, on this machine or
on many, at once or killed and resumed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.errors import PackageError, UsageError
from data_schemas.files import replacing
from data_schemas.progress import Progress, silent
from data_schemas.version import our_version
from pipeline.batch.named import Named, named_files
from pipeline.batch.parts import Header, Parts
from pipeline.batch.rows import Row, outcome_of, refused, table_schema
from pipeline.batch.task import Model, Outcome, Seen, Stopped, carried, score_file
from pipeline.imaging.makers import pixel_makers
from pipeline.imaging.workers import End, WorkerLimits
from pipeline.ingest import local_engine, ray_engine
from pipeline.ingest.folder import discard, part_of
from pipeline.ingest.records import SourceFile
from pipeline.ingest.sources.ahead import fetched_ahead
from pipeline.ingest.sources.listing import Access
from pipeline.ingest.taking import digest_of
from pipeline.model.opening import PLAIN, Wish, open_runtime
from pipeline.model.package import Package

PRELOAD = ("pipeline.batch.task",)
ROWS_AT_ONCE = 4096
"""Rows of one row group of the table: what is held in memory while it is written."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a batch is done. The rows are the same whatever ``engine`` and ``workers`` are."""

    version: str = ""
    """Of the model in the registry."""
    wish: Wish = PLAIN
    """Runtime and precision."""
    evidence: Path | None = None
    """Folder for whole answers (JSON) and evidence pictures (PNG)."""
    engine: str = "local"
    workers: int = 0
    """Processes that score; 0: one for each core."""
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    ray_address: str = ""
    access: Access = field(default_factory=Access)
    say: Callable[[str], None] = lambda _: None


def score_sources(
    package: Package,
    sources: Iterable[str],
    out: Path,
    options: Options = Options(),
    progress: Progress = silent,
) -> dict[str, int]:
    """Score sources and write one row for each file, in the sources' order.

    Rows under way lie in the hidden folder ``.NAME.part`` beside ``out``; when a command that was
    stopped is given again, what has its row is not scored again. What ended in a time-out, a dead
    decoder or a read error is tried again.

    Parameters
    ----------
    package
        The model.
    sources
        Image files, and whatever else can be ingested: folders, archives, lists, addresses of
        DICOMweb and of object storage.
    out
        The Parquet file; it appears whole, or not at all.
    progress
        Told before the first file, and after each.

    Returns
    -------
    dict
        Verdict or refusal code -> files.

    Raises
    ------
    UsageError
        If a source can't be read, ``out`` can't be written, or another process writes it.
    PackageError
        If the model can't be loaded.
    """
    if out.is_dir():
        raise UsageError("is a folder, expected a Parquet file to write", where=out)
    access = replace(options.access, most_bytes=package.contract.limits.file_bytes)
    named = named_files(sources, access, progress)
    if not named.files:
        raise UsageError("there is no file to score")
    for remark in named.remarks:
        options.say(remark)
    opened = open_runtime(package, options.wish)
    for note in opened.notes:
        options.say(f"not taken: {note}")
    header = Header(
        package_sha256=package.sha256,
        version=options.version,
        runtime=opened.runtime.identity,
        hilum_version=our_version(),
        pixel_makers=pixel_makers(),
        evidence=str(options.evidence or ""),
    )
    try:
        with part_of(out) as folder:
            with _begun(folder, header, named, options.say) as parts:
                model = Model(
                    str(package.folder.resolve()), package.sha256, header.runtime, options.version
                )
                stream = _stream(parts, package, model, named, options)
                _score_all(parts, stream, len(named.files), progress)
                counts = _write(parts, package, out)
            discard(folder)
    except OSError as error:
        raise UsageError(
            f"can't be written: {error.strerror}",
            where=error.filename or out,
            mend="mend it and run the same command again: it goes on where it stopped",
        ) from error
    return dict(sorted(counts.items()))


def _begun(folder: Path, header: Header, named: Named, say: Callable[[str], None]) -> Parts:
    parts = Parts(folder, header, named.files)
    if parts.anew:
        say(
            "an unfinished batch used another model, runtime or version of hilum: started anew",
        )
    elif parts.done:
        say(f"{parts.done} files have their row from an earlier run")
    return parts


def _score_all(
    parts: Parts,
    stream: Iterator[tuple[SourceFile, Outcome | End]],
    total: int,
    progress: Progress,
) -> None:
    done = parts.done
    progress(done, total, "scoring")
    waiting: dict[str, Row] = {}
    for file, said in stream:
        if isinstance(said, Stopped):
            raise PackageError(said.what)
        if isinstance(said, Seen):
            parts.seen(file, said.source_sha256)
        elif not isinstance(said, End):
            waiting[file.place] = said
        elif said.code:
            parts.add(file, refused(said.code, said.reason, digest_of(file) or None))
        if isinstance(said, End):
            row = waiting.pop(file.place, None)
            if row is not None:
                parts.add(file, row)
            done += 1
            progress(done, total, "scoring")


def _stream(
    parts: Parts, package: Package, model: Model, named: Named, options: Options
) -> Iterator[tuple[SourceFile, Outcome | End]]:
    task = partial(score_file, evidence=options.evidence, known=parts.known())
    files: Iterable[SourceFile] = parts.todo()
    if options.engine == "ray":
        task = partial(task, model=replace(model, files=carried(package)))
        return ray_engine.stream(
            files, task, options.workers, options.limits, options.ray_address, PRELOAD
        )
    if named.requests > 1:
        files = fetched_ahead(files, named.requests)
    task = partial(task, model=model)
    return local_engine.stream(files, task, options.workers, options.limits, PRELOAD)


def _write(parts: Parts, package: Package, out: Path) -> Counter[str]:
    schema = table_schema(package.card)
    always = {
        "package_sha256": package.sha256,
        "contract_sha256": package.card.contract_sha256,
    }
    counts: Counter[str] = Counter()
    rows = parts.rows()
    with replacing(out) as part, pq.ParquetWriter(part, schema) as writer:
        while some := [row | always for row in islice(rows, ROWS_AT_ONCE)]:
            counts.update(map(outcome_of, some))
            writer.write_table(pa.Table.from_pylist(some, schema))
    return counts
