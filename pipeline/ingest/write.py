"""Writes a data set's files: pixel shards, manifest, refusals. Memory doesn't grow with their length."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.contract import Contract
from data_schemas.dataset import MANIFEST_COLUMNS, REFUSAL_COLUMNS, DatasetInfo, Label
from data_schemas.errors import DatasetError
from data_schemas.files import sha256
from data_schemas.progress import Progress
from data_schemas.terms import SPLITS
from data_schemas.version import our_version
from pipeline.ingest.labels import LabelColumn
from pipeline.ingest.records import Chosen, Refusal

INFO = "dataset.json"
CONTRACT = "contract.json"
MANIFEST = "manifest.parquet"
REFUSED = "refusals.parquet"
JOURNAL = "journal"
LEAKS = "leaks.json"

_SHARD_BYTES = 1_000_000_000
_TABLE_ROWS = 1024
_INTEGERS = {name: pa.int32() for name in ("frame", "fold", "label_line", "shard", "row", "source_rows", "source_columns")}  # fmt: skip
_OUTSIDE_DIGEST = ("shard", "row", "label_line", "warnings")
_REFUSAL_TYPES = {"frame": pa.int32(), "label_line": pa.int32(), "thumbnail": pa.binary()}


@dataclass
class Tally:
    """What a data set's images add up to, and the digest of their rows so far."""

    images: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    patients: set[str] = field(default_factory=set)
    labels: dict[str, Counter[int | None]] = field(default_factory=dict)
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, row: dict[str, Any]) -> None:
        """Count one row of the manifest.

        Every row holds the digest of its prepared array, so that hashing the rows covers both.
        Where an image lies, which line of the label table named it and what was mended on the way
        stay outside the digest: they change nothing that a model sees.
        """
        self.images += 1
        self.splits[row["split"]] += 1
        self.patients.add(row["patient"])
        for name, value in row.items():
            if name.startswith("label_") and name != "label_line":
                self.labels.setdefault(name, Counter())[value] += 1
        seen = {name: value for name, value in row.items() if name not in _OUTSIDE_DIGEST}
        line = json.dumps(seen, sort_keys=True, separators=(",", ":"))
        self.digest.update(line.encode() + b"\n")


def shard_rows(image_bytes: int) -> int:
    """Return how many images one shard holds: about a gigabyte."""
    return max(1, _SHARD_BYTES // image_bytes)


def write_shards(
    folder: Path,
    names: tuple[str, ...],
    chosen: list[Chosen],
    pixels_at: Callable[[int], bytes],
    shape: tuple[int, int, int],
    progress: Progress,
) -> None:
    """Write the chosen arrays into shards of these names.

    Parameters
    ----------
    pixels_at
        From a spool row to the array's bytes.

    Raises
    ------
    DatasetError
        If an array is no longer what it was when it was prepared.
    """
    per_shard = shard_rows(shape[0] * shape[1] * shape[2])
    for number, name in enumerate(names):
        some = chosen[number * per_shard : (number + 1) * per_shard]
        # written, not mapped: mapped pages would count as this process's memory
        with (folder / name).open("wb") as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(some), *shape)}
            np.lib.format.write_array_header_1_0(stream, header)
            for place, image in enumerate(some, number * per_shard + 1):
                stream.write(_verified(image, pixels_at(image.taken.spool_row), folder))
                progress(place, len(chosen), "writing")


def _verified(image: Chosen, pixels: bytes, folder: Path) -> bytes:
    if sha256(pixels) != image.taken.pixel_sha256:
        raise DatasetError(
            f"the prepared pixels of file {image.taken.source_sha256[:12]} have changed on disk",
            where=folder,
            mend="check the disk, then build the data set anew with --force",
        )
    return pixels


def manifest_rows(
    chosen: Iterable[Chosen], columns: tuple[LabelColumn, ...], per_shard: int
) -> Iterator[dict[str, Any]]:
    """Yield the manifest as one dictionary for each image, in order."""
    for index, image in enumerate(chosen):
        taken, known = image.taken, image.known
        row: dict[str, Any] = {
            "source_sha256": taken.source_sha256,
            "frame": taken.frame,
            "patient": known.patient,
            "laterality": known.laterality,
            "view": taken.view,
            "site": known.site,
            "device": taken.device,
            "split": image.split,
            "fold": image.fold,
            "pixel_sha256": taken.pixel_sha256,
            "shard": index // per_shard,
            "row": index % per_shard,
            "format": taken.format,
            "modality": taken.modality,
            "source_rows": taken.rows,
            "source_columns": taken.columns,
            "quality": "sufficient",
            "label_line": known.line,
            "warnings": "; ".join(taken.warnings),
        }
        row |= {f"label_{c.name}": value for c, value in zip(columns, known.labels, strict=True)}
        yield row


def write_manifest(
    path: Path, rows: Iterable[dict[str, Any]], labels: tuple[LabelColumn, ...]
) -> Tally:
    """Write ``manifest.parquet`` and return what its rows add up to."""
    fields = [(name, _INTEGERS.get(name, pa.string())) for name in MANIFEST_COLUMNS]
    fields += [(f"label_{label.name}", pa.int64()) for label in labels]
    tally = Tally()

    def counted() -> Iterator[dict[str, Any]]:
        for row in rows:
            tally.add(row)
            yield row

    _write(path, counted(), fields)
    return tally


def write_refusals(
    path: Path, refusals: list[Refusal], thumbnail_of: Callable[[Refusal], bytes | None]
) -> None:
    """Write ``refusals.parquet``, sorted; a refusal without a thumbnail gets one if there is a picture."""
    ordered = sorted(refusals, key=lambda r: (r.source_sha256, r.frame, r.code, r.place_key))
    rows = (
        {name: getattr(refusal, name) for name in REFUSAL_COLUMNS}
        | {"thumbnail": refusal.thumbnail or thumbnail_of(refusal)}
        for refusal in ordered
    )
    _write(path, rows, [(name, _REFUSAL_TYPES.get(name, pa.string())) for name in REFUSAL_COLUMNS])


def _write(path: Path, rows: Iterator[dict[str, Any]], fields: list[tuple[str, Any]]) -> None:
    schema = pa.schema(fields, metadata={"schema_version": "1"})
    with pq.ParquetWriter(path, schema) as writer:
        while some := list(islice(rows, _TABLE_ROWS)):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))


def dataset_info(
    tally: Tally,
    refusals: list[Refusal],
    columns: tuple[LabelColumn, ...],
    contract: Contract,
    *,
    files: int,
    name: str,
) -> DatasetInfo:
    """Return the document ``dataset.json``, but for its shards and its version."""
    labels = []
    for column in columns:
        counts = tally.labels.get(f"label_{column.name}", Counter())
        labels.append(
            Label(
                name=column.name,
                kind=column.kind,
                classes=column.classes,
                counts=tuple(counts[k] for k in range(len(column.classes))),
                missing=counts[None],
            )
        )
    splits = tally.splits
    return DatasetInfo(
        name=name,
        hilum_version=our_version(),
        contract_name=contract.name,
        contract_sha256=contract.digest(),
        size=contract.size,
        channels=contract.channels,
        images=tally.images,
        patients=len(tally.patients),
        files_read=files,
        refused=dict(sorted(Counter(refusal.code for refusal in refusals).items())),
        splits={split: splits[split] for split in SPLITS if split != "external" or splits[split]},
        labels=tuple(labels),
        shards=(),
        content_sha256=tally.digest.hexdigest(),
    )
