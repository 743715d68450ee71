"""From a source to a folder of clean copies: every file written, set aside or refused, and a log of it."""

import csv
import io
import json
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.errors import HilumError, UsageError
from data_schemas.files import replacing, write_text
from data_schemas.progress import Progress
from data_schemas.version import our_version
from pipeline.imaging.workers import Crew, End, WorkerLimits
from pipeline.ingest.deidentify.copying import (
    KNOWN,
    REFUSED,
    SET_ASIDE,
    Outcome,
    Settings,
    clean_file,
)
from pipeline.ingest.journal import PASSING
from pipeline.ingest.patients import place_key, pseudonym
from pipeline.ingest.records import SourceFile
from pipeline.ingest.sources.listing import Access
from pipeline.ingest.sources.open import open_source
from pipeline.ingest.taking import digest_of
from pipeline.model.cores import available_cores

INFO, LOG, ASIDE, JOURNAL = "deidentified.json", "deidentified.parquet", "set-aside.csv", ".journal"
_PRELOAD = ("pipeline.ingest.deidentify.copying",)


def deidentify(
    source: str, out: Path, settings: Settings, *, key: bytes, progress: Progress, workers: int = 0
) -> list[Outcome]:
    """Write clean copies of the DICOM images and photographs of ``source`` into ``out``.

    Same key, same settings and same files give the same bytes. What an earlier run, even a killed
    one, has done is not done again. Each file is cleaned in a process apart.

    Parameters
    ----------
    source
        A folder of any depth, an archive, or another source that ``hilum ingest`` takes.
    key
        Key of the pseudonyms, the mapped UIDs and the moved dates.
    workers
        Processes; 0: one for each core.

    Raises
    ------
    UsageError
        If there are no files, or ``out`` lies inside ``source`` or holds something else.
    """
    path = Path(source)
    if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise UsageError("lies inside the source folder", where=out, mend="write it elsewhere")
    access = Access(most_bytes=settings.limits.file_bytes)
    files = open_source(source, progress=progress, access=access).files
    _open(out, settings, key)
    done = _done(out)
    task = partial(clean_file, out=out, settings=settings, key=key, known=frozenset(done))
    outcomes: list[Outcome] = []
    with (
        (out / JOURNAL).open("a", encoding="utf-8") as journal,
        Crew(task, workers or available_cores(), WorkerLimits(), _PRELOAD) as crew,
    ):
        for file, answer in crew.stream(files):
            if isinstance(answer, End) and not answer.code:
                continue  # the outcome came before
            outcome = _outcome(file, answer, done, key)
            if outcome.source_sha256 not in done:
                done[outcome.source_sha256] = outcome
                journal.write(json.dumps(asdict(outcome)) + "\n")
                journal.flush()
            outcomes.append(outcome)
            progress(len(outcomes), len(files), "cleaning")
    _close(out, sorted(set(outcomes), key=lambda outcome: outcome.source_sha256))
    return outcomes


def counts(outcomes: list[Outcome]) -> dict[str, dict[str, int]]:
    """Return files by status, and by status and code."""
    codes = Counter(f"{o.status}: {o.code}" for o in outcomes if o.code)
    return {
        "files": dict(sorted(Counter(outcome.status for outcome in outcomes).items())),
        "codes": dict(sorted(codes.items())),
    }


def _outcome(
    file: SourceFile, answer: Outcome | End, done: dict[str, Outcome], key: bytes
) -> Outcome:
    if isinstance(answer, End):
        if "OSError" in answer.reason:
            raise HilumError("the output folder can't be written", mend="is the disk full?")
        digest = digest_of(file) or place_key(key, file.place)
        return Outcome(digest, REFUSED, code=answer.code, reason=answer.reason)
    return done[answer.source_sha256] if answer.status == KNOWN else answer


def _mark(settings: Settings, key: bytes) -> str:
    mark: dict[str, Any] = {
        "schema_version": 1,
        "hilum_version": our_version(),
        "dates": settings.choice.dates,
        "retained": sorted(settings.choice.retain),
        "keep_burned_in": settings.keep_burned_in,
        "suspects": sorted(settings.suspects),
        "limits": settings.limits.model_dump(mode="json"),
        "key": pseudonym(key, "which key this folder was made with"),
    }
    return json.dumps(mark, indent=2) + "\n"


def _open(out: Path, settings: Settings, key: bytes) -> None:
    """Mark the folder as ours, made in this way; refuse one that was made in another."""
    text = _mark(settings, key)
    if out.exists() and not out.is_dir():
        raise UsageError("is a file; a folder is written here", where=out)
    if out.is_dir() and any(out.iterdir()):
        if not (out / INFO).is_file():
            raise UsageError("the folder is not empty", where=out, mend="choose another")
        if (out / INFO).read_text(encoding="utf-8") != text:
            raise UsageError(
                "the folder was made with another key, other options or another version",
                where=out,
                mend="choose another folder",
            )
        for part in out.rglob(".*.part"):  # of a run that was killed
            part.unlink()
    write_text(out / INFO, text)


def _done(out: Path) -> dict[str, Outcome]:
    """Return what earlier runs did: the log of a finished one, the journal of a killed one.

    What timed out or crashed isn't done; nor is a copy that is gone.
    """
    found: list[Outcome] = []
    if (out / LOG).is_file():
        found += [Outcome(**row) for row in pq.read_table(out / LOG).to_pylist()]
    if (out / JOURNAL).is_file():
        for line in (out / JOURNAL).read_text(encoding="utf-8").splitlines():
            try:
                found.append(Outcome(**json.loads(line)))
            except (ValueError, TypeError):  # the line that the end cut off
                continue
    return {o.source_sha256: o for o in found if _lasts(o, out)}


def _lasts(outcome: Outcome, out: Path) -> bool:
    if outcome.status == REFUSED:
        return outcome.code not in PASSING
    return not outcome.file or (out / outcome.file).is_file()


def _close(out: Path, outcomes: list[Outcome]) -> None:
    columns = list(Outcome.__dataclass_fields__)
    table = pa.table(
        {name: pa.array([getattr(o, name) for o in outcomes], pa.string()) for name in columns}
    )
    with replacing(out / LOG) as part:
        pq.write_table(table, part)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["source_sha256", "code", "reason"])
    writer.writerows([o.source_sha256, o.code, o.reason] for o in outcomes if o.status == SET_ASIDE)
    write_text(out / ASIDE, stream.getvalue())
    (out / JOURNAL).unlink()
