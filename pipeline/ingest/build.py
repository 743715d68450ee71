"""Writes the finished data set: what was chosen becomes a new folder, or the next version of one."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_schemas.contract import Contract
from data_schemas.dataset import DatasetInfo
from data_schemas.files import replacing
from data_schemas.progress import Progress
from pipeline.ingest.folder import discard, publish
from pipeline.ingest.labels import LabelColumn
from pipeline.ingest.leaks.examine import examine_and_keep
from pipeline.ingest.page.write import write_page
from pipeline.ingest.previous import LOST, Previous
from pipeline.ingest.records import Chosen, Refusal, Taken
from pipeline.ingest.store import open_dataset
from pipeline.ingest.thumbnail import thumbnail
from pipeline.ingest.work import Work
from pipeline.ingest.write import (
    CONTRACT,
    INFO,
    JOURNAL,
    MANIFEST,
    REFUSED,
    dataset_info,
    manifest_rows,
    shard_rows,
    write_manifest,
    write_refusals,
    write_shards,
)


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """Everything that a data set is made of, but for the pixels themselves."""

    name: str
    files: int
    """How many the source holds."""
    contract: Contract
    columns: tuple[LabelColumn, ...]
    taken: list[Taken]
    chosen: list[Chosen]
    refusals: list[Refusal]
    folds: int = 0
    examined: bool = True
    """Whether the leak doctor looks at it before it is published."""


def build(
    result: Result,
    work: Work,
    part: Path,
    out: Path,
    *,
    previous: Previous | None,
    progress: Progress,
) -> DatasetInfo:
    """Write the data set into the hidden folder and put it in its place; return its document.

    If the previous version holds the same, it stays as it is and its own document is returned.
    """
    new = part / "new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    contract = result.contract
    shape = (contract.size, contract.size, contract.channels)
    per_shard = shard_rows(shape[0] * shape[1] * shape[2])
    rows = manifest_rows(result.chosen, result.columns, per_shard)
    tally = write_manifest(new / MANIFEST, rows, result.columns)
    info = dataset_info(
        tally, result.refusals, result.columns, contract, files=result.files, name=result.name
    )
    count = -(-len(result.chosen) // per_shard)
    info = info.model_copy(
        update={
            "shards": tuple(f"pixels-{k:03d}.npy" for k in range(count)),
            "folds": result.folds,
            "published_test": any(image.known.official_test for image in result.chosen),
        }
    )
    if previous is not None:
        if previous.same(info, result.refusals):
            _keep_journal(part, out)
            discard(part)
            return previous.info
        rows = manifest_rows(result.chosen, result.columns, per_shard)
        info = info.model_copy(
            update={
                "version": previous.info.version + 1,
                "previous_sha256": previous.info.content_sha256,
                "changes": previous.changes(rows),
            }
        )
    write_shards(new, info.shards, result.chosen, work.pixels_at, shape, progress)
    write_refusals(new / REFUSED, result.refusals, _pictures(result, work, previous))
    contract.write_json(new / CONTRACT)
    info.write_json(new / INFO)
    report = None
    if result.examined:
        found = examine_and_keep(open_dataset(new), progress)
        info, report = found.info, found.report
    write_page(open_dataset(new), report, new)
    shutil.copyfile(part / JOURNAL, new / JOURNAL)
    publish(new, out, part)
    return info


def _keep_journal(part: Path, out: Path) -> None:
    # files may have new times of change though their bytes are the same: known next time
    with replacing(out / JOURNAL) as path:
        shutil.copyfile(part / JOURNAL, path)


def _pictures(
    result: Result, work: Work, previous: Previous | None
) -> Callable[[Refusal], bytes | None]:
    # pictures of what was refused after it had been prepared
    lost = {(refusal.place_key, refusal.frame) for refusal in result.refusals}
    rows = {
        (taken.place_key, taken.frame): taken.spool_row
        for taken in result.taken
        if (taken.place_key, taken.frame) in lost
    }
    size, channels = result.contract.size, result.contract.channels
    older = {} if previous is None else previous.thumbnails()

    def picture(refusal: Refusal) -> bytes | None:
        row = rows.get((refusal.place_key, refusal.frame))
        if row is None:
            return None
        if row == LOST:
            return older.get((refusal.source_sha256, refusal.frame))
        pixels = np.frombuffer(work.pixels_at(row), np.uint8).reshape(size, size, channels)
        return thumbnail(pixels)

    return picture
