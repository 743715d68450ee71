"""The way from a source to a data set folder, in one function."""

import errno
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Contract
from data_schemas.dataset import DatasetInfo
from data_schemas.errors import DatasetError, UsageError
from data_schemas.progress import Progress
from data_schemas.version import our_version
from pipeline.imaging.workers import WorkerLimits
from pipeline.ingest import local_engine, ray_engine
from pipeline.ingest.build import Result, build
from pipeline.ingest.choose import assign, without_duplicates
from pipeline.ingest.folder import check_target, discard, part_of
from pipeline.ingest.join import Rows, join, rows_of
from pipeline.ingest.journal import Header, fingerprint
from pipeline.ingest.labels import LabelColumn, read_labels
from pipeline.ingest.listing import Listing, from_folder
from pipeline.ingest.medmnist import from_npz, is_npz
from pipeline.ingest.patients import place_key
from pipeline.ingest.previous import LOST, open_previous
from pipeline.ingest.records import Chosen, Refusal, SourceFile, Taken
from pipeline.ingest.table import read_table
from pipeline.ingest.taking import take_file
from pipeline.ingest.work import Said, open_work, take_all
from pipeline.ingest.write import INFO

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _mute(remark: str) -> None:
    """Listen to no remarks."""


@dataclass(frozen=True, slots=True)
class Options:
    """What else may be said about an ingestion."""

    name: str = ""
    """The data set's name; empty: the source's."""
    labels: tuple[str, ...] = ()
    """Labels to use; empty: all."""
    force: bool = False
    """Build the data set anew, whatever stands in its place."""
    engine: Literal["local", "ray"] = "local"
    workers: int = 0
    """Processes that decode; 0: one for each core."""
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    """What one image may cost."""
    ray_address: str = ""
    """A running Ray cluster; empty: this machine."""
    say: Callable[[str], None] = _mute
    """Called with remarks for a person."""


def ingest(
    source: Path,
    labels: Path | None,
    out: Path,
    contract: Contract,
    *,
    key: bytes,
    progress: Progress,
    options: Options = Options(),
) -> DatasetInfo:
    """Turn a source into a data set folder: every file ends as an image or as a refusal.

    What is done is kept in a hidden folder beside ``out``: an ingestion that was killed goes on where
    it stopped. If ``out`` holds a data set of this source, contract and key, it becomes its next
    version; with nothing new it stays as it is.

    Parameters
    ----------
    source
        A folder of DICOM, JPEG, PNG and TIFF files in any mix, or a MedMNIST ``.npz``.
    labels
        CSV or Parquet; ``None`` for a ``.npz``, or for a data set without labels.
    out
        The folder to write. It appears, or is replaced, whole or not at all.
    key
        Key of the patients' pseudonyms.

    Raises
    ------
    UsageError
        If source, labels and out don't go together.
    DatasetError
        If the label table is wrong (all faults at once), no image is left, or the disk is full.
    """
    check_target(out, mark=INFO)
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise UsageError("lies inside the source folder", where=out, mend="write it elsewhere")
    listing, columns, label_rows = _listing(source, labels, options, key)
    for remark in listing.remarks:
        options.say(remark)
    with part_of(out) as part, _room(out):
        header = Header(
            contract_sha256=contract.digest(),
            key_sha256=fingerprint(key),
            hilum_version=our_version(),
        )
        previous = None
        if not options.force:
            places = (place_key(key, file.place) for file in listing.files)
            previous = open_previous(out, contract, header, places)
        if previous is not None:
            header = header.model_copy(update={"previous_sha256": previous.info.content_sha256})
        image_bytes = contract.size * contract.size * contract.channels
        with open_work(part, header, image_bytes, previous, options.say) as work:
            engine = partial(_stream, contract=contract, key=key, options=options)
            while True:
                taken, refusals = take_all(work, listing.files, key, engine, progress)
                chosen, left_out = _choose(taken, label_rows, key)
                # chosen now, but refused in the version before: their pixels weren't kept
                lost = {i.taken.place_key for i in chosen if i.taken.spool_row == LOST}
                if not lost:
                    break
                work.forget(lost)
            refusals += left_out
            if not taken:
                discard(part)
            if not chosen:
                raise DatasetError(f"no image is left: {_funnel(refusals)}", where=source)
            name = options.name or source.resolve().stem
            result = Result(name, len(listing.files), contract, columns, taken, chosen, refusals)
            info = build(result, work, part, out, previous=previous, progress=progress)
    if previous is not None and info is previous.info:
        options.say(f"nothing has changed: version {info.version} stays as it is")
    return info


def _choose(
    taken: list[Taken], label_rows: Rows | None, key: bytes
) -> tuple[list[Chosen], list[Refusal]]:
    pairs, unlabelled = join(taken, label_rows, key)
    stay, doubles = without_duplicates(pairs)
    return assign(stay), unlabelled + doubles


@contextmanager
def _room(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DatasetError(
            "the disk is full",
            where=out.parent,
            mend="make room and run the same command again: it goes on where it stopped",
        ) from error


def _stream(
    files: Iterable[SourceFile],
    known: NDArray[np.bytes_] | None,
    *,
    contract: Contract,
    key: bytes,
    options: Options,
) -> Iterator[Said]:
    task = partial(take_file, contract=contract, key=key, known=known)
    if options.engine == "ray":
        return ray_engine.stream(files, task, options.workers, options.limits, options.ray_address)
    return local_engine.stream(files, task, options.workers, options.limits)


def _listing(
    source: Path, labels: Path | None, options: Options, key: bytes
) -> tuple[Listing, tuple[LabelColumn, ...], Rows | None]:
    if is_npz(source):
        if labels is not None:
            raise UsageError("a .npz file holds its own labels", where=labels)
        listing = from_npz(source)
        return listing, listing.columns, None
    listing = from_folder(source, labels)
    if labels is None:
        return listing, (), None
    table = read_labels(read_table(labels), options.labels)
    for remark in table.remarks:
        options.say(remark)
    return listing, table.columns, rows_of(table, labels, source, listing.files, key)


def _funnel(refusals: list[Refusal]) -> str:
    counts = Counter(refusal.code for refusal in refusals)
    return ", ".join(f"{count} {code}" for code, count in sorted(counts.items()))
