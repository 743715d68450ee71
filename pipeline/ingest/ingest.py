"""The way from a source to a data set folder, in one function."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from data_schemas.contract import Contract
from data_schemas.dataset import DatasetInfo
from data_schemas.errors import DatasetError, UsageError
from data_schemas.progress import Progress
from pipeline.ingest.choose import without_duplicates
from pipeline.ingest.folder import building, check_target
from pipeline.ingest.join import Rows, join, rows_of
from pipeline.ingest.labels import LabelColumn, read_labels
from pipeline.ingest.listing import Listing, from_folder
from pipeline.ingest.medmnist import from_npz, is_npz
from pipeline.ingest.records import Refusal, Taken
from pipeline.ingest.splits import SplitRule, assign
from pipeline.ingest.store import CONTRACT, INFO, MANIFEST, REFUSED
from pipeline.ingest.table import read_table
from pipeline.ingest.taking import take_file
from pipeline.ingest.write import (
    Spool,
    dataset_info,
    manifest_rows,
    shard_rows,
    write_manifest,
    write_refusals,
)


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
    """Replace an older data set in the same place."""
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

    Parameters
    ----------
    source
        A folder of DICOM, JPEG, PNG and TIFF files in any mix, or a MedMNIST ``.npz``.
    labels
        CSV or Parquet; ``None`` for a ``.npz``, or for a data set without labels.
    out
        The folder to write. It appears whole or not at all.
    key
        Key of the patients' pseudonyms.

    Raises
    ------
    UsageError
        If source, labels and out don't go together.
    DatasetError
        If the label table is wrong (all faults at once), or no image is left.
    """
    check_target(out, force=options.force, mark=INFO)
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise UsageError("lies inside the source folder", where=out, mend="write it elsewhere")
    listing, columns, label_rows = _listing(source, labels, options, key)
    for remark in listing.remarks:
        options.say(remark)
    image_bytes = contract.size * contract.size * contract.channels
    with building(out) as folder:
        with Spool(folder / "pixels.spool", image_bytes) as spool:
            taken, refusals = _take_all(listing, contract, key, spool, progress)
            pairs, unlabelled = join(taken, label_rows, key)
            stay, doubles = without_duplicates(pairs, tuple(column.name for column in columns))
            refusals += unlabelled + doubles
            chosen = assign(stay, SplitRule(), doubles)
            if not chosen:
                raise DatasetError(f"no image is left: {_funnel(refusals)}", where=source)
            shape = (contract.size, contract.size, contract.channels)
            rows_of_spool = [image.taken.spool_row for image in chosen]
            shards = spool.shards(rows_of_spool, shape, folder, progress)
        rows = manifest_rows(chosen, columns, shard_rows(image_bytes))
        name = options.name or source.resolve().stem
        info = dataset_info(rows, refusals, columns, contract, (name, shards))
        official = any(image.known.official_test for image in chosen)
        info = info.model_copy(update={"published_test": official})
        write_manifest(folder / MANIFEST, rows, columns)
        write_refusals(folder / REFUSED, refusals)
        contract.write_json(folder / CONTRACT)
        info.write_json(folder / INFO)
    return info


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


def _take_all(
    listing: Listing, contract: Contract, key: bytes, spool: Spool, progress: Progress
) -> tuple[list[Taken], list[Refusal]]:
    taken: list[Taken] = []
    refusals: list[Refusal] = []
    for done, file in enumerate(listing.files, start=1):
        for outcome in take_file(file, contract, key):
            if isinstance(outcome, Refusal):
                refusals.append(outcome)
            else:
                row = spool.add(outcome.pixels)
                taken.append(replace(outcome.taken, spool_row=row))
        progress(done, len(listing.files), "reading")
    taken.sort(key=lambda t: (t.source_sha256, t.frame, t.pixel_sha256, t.place_key))
    return taken, refusals


def _funnel(refusals: list[Refusal]) -> str:
    counts = Counter(refusal.code for refusal in refusals)
    return ", ".join(f"{count} {code}" for code, count in sorted(counts.items()))
