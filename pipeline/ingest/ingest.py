"""The way from a source to a data set folder, in one function."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_schemas.contract import Contract
from data_schemas.dataset import DatasetInfo
from data_schemas.errors import DatasetError, UsageError
from data_schemas.progress import Progress
from pipeline.ingest.candidates import Candidates, from_folder
from pipeline.ingest.choose import assign, without_duplicates
from pipeline.ingest.folder import building, check_target
from pipeline.ingest.labels import read_labels
from pipeline.ingest.medmnist import from_npz, is_npz
from pipeline.ingest.table import read_table
from pipeline.ingest.taking import Refusal, Taken, in_order, take
from pipeline.ingest.write import (
    Spool,
    dataset_info,
    manifest_rows,
    shard_rows,
    write_manifest,
    write_refusals,
)

INFO = "dataset.json"
CONTRACT = "contract.json"
MANIFEST = "manifest.parquet"
REFUSED = "refusals.parquet"


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
    candidates = _candidates(source, labels, options, progress)
    for remark in candidates.remarks:
        options.say(remark)
    image_bytes = contract.size * contract.size * contract.channels
    with building(out) as folder:
        with Spool(folder / "pixels.spool", image_bytes) as spool:
            taken, refusals = _take_all(candidates, contract, spool, progress)
            stay, doubles = without_duplicates(taken)
            refusals += doubles
            chosen = assign(stay, key)
            if not chosen:
                raise DatasetError(f"no image is left: {_funnel(refusals)}", where=source)
            shape = (contract.size, contract.size, contract.channels)
            shards = spool.shards([image.place for image in chosen], shape, folder, progress)
        rows = manifest_rows(chosen, candidates.columns, shard_rows(image_bytes))
        name = options.name or source.resolve().stem
        info = dataset_info(rows, refusals, candidates.columns, contract, (name, shards))
        write_manifest(folder / MANIFEST, rows, candidates.columns)
        write_refusals(folder / REFUSED, refusals)
        contract.write_json(folder / CONTRACT)
        info.write_json(folder / INFO)
    return info


def _candidates(
    source: Path, labels: Path | None, options: Options, progress: Progress
) -> Candidates:
    if is_npz(source):
        if labels is not None:
            raise UsageError("a .npz file holds its own labels", where=labels)
        return from_npz(source)
    table = None if labels is None else read_labels(read_table(labels), options.labels)
    return from_folder(source, labels, table, progress)


def _take_all(
    candidates: Candidates, contract: Contract, spool: Spool, progress: Progress
) -> tuple[list[Taken], list[Refusal]]:
    taken: list[Taken] = []
    refusals: list[Refusal] = []
    total = len(candidates.found)
    outcomes = in_order(candidates.found, partial(take, contract=contract))
    for done, outcome in enumerate(outcomes, start=1):
        if isinstance(outcome, Refusal):
            refusals.append(outcome)
        else:
            spool.add(outcome.pixels)
            taken.append(replace(outcome, pixels=b""))
        progress(done, total, "reading")
    return taken, refusals


def _funnel(refusals: list[Refusal]) -> str:
    counts = Counter(refusal.code for refusal in refusals)
    return ", ".join(f"{count} {code}" for code, count in sorted(counts.items()))
