"""Writes a data set's files: manifest, pixel shards, refusals, dataset.json."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.contract import Contract
from data_schemas.dataset import MANIFEST_COLUMNS, REFUSAL_COLUMNS, DatasetInfo, Label
from data_schemas.progress import Progress
from data_schemas.terms import SPLITS
from data_schemas.version import our_version
from pipeline.ingest.labels import LabelColumn
from pipeline.ingest.records import Chosen, Refusal

_SHARD_BYTES = 1_000_000_000
_INTEGERS = {name: pa.int32() for name in ("frame", "fold", "label_line", "shard", "row", "source_rows", "source_columns")}  # fmt: skip
_OUTSIDE_DIGEST = ("shard", "row", "label_line", "warnings")
_REFUSAL_TYPES = {"frame": pa.int32(), "label_line": pa.int32(), "thumbnail": pa.binary()}


class Spool:
    """Prepared arrays on disk in the order they were taken, until it is known which of them stay."""

    def __init__(self, path: Path, image_bytes: int) -> None:
        self._path = path
        self._image_bytes = image_bytes
        self._stream = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._path.unlink(missing_ok=True)

    def add(self, pixels: bytes) -> int:
        """Append one array and return its row."""
        self._stream.write(pixels)
        return self._stream.tell() // self._image_bytes - 1

    def shards(
        self, places: list[int], shape: tuple[int, int, int], folder: Path, progress: Progress
    ) -> tuple[str, ...]:
        """Write the arrays at ``places`` as ``pixels-000.npy`` and so on."""
        self._stream.flush()
        per_shard = shard_rows(self._image_bytes)
        names: list[str] = []
        with self._path.open("rb") as stream:
            for start in range(0, len(places), per_shard):
                some = places[start : start + per_shard]
                name = f"pixels-{len(names):03d}.npy"
                out = np.lib.format.open_memmap(
                    folder / name, mode="w+", dtype=np.uint8, shape=(len(some), *shape)
                )
                for row, place in enumerate(some):
                    stream.seek(place * self._image_bytes)
                    out[row] = np.frombuffer(stream.read(self._image_bytes), np.uint8).reshape(
                        shape
                    )
                    progress(start + row + 1, len(places), "writing")
                out.flush()
                names.append(name)
        return tuple(names)


def shard_rows(image_bytes: int) -> int:
    """Return how many images one shard holds: about a gigabyte."""
    return max(1, _SHARD_BYTES // image_bytes)


def manifest_rows(
    chosen: list[Chosen], columns: tuple[LabelColumn, ...], per_shard: int
) -> list[dict[str, Any]]:
    """Return the manifest as one dictionary for each image, in order."""
    rows = []
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
        rows.append(row)
    return rows


def content_digest(rows: list[dict[str, Any]]) -> str:
    """Return the digest of a data set's content.

    Every row holds the digest of its prepared array, so that hashing the rows covers both. Where an
    image lies, which line of the label table named it and what was mended on the way stay outside:
    they change nothing that a model sees.
    """
    digest = hashlib.sha256()
    for row in rows:
        seen = {name: value for name, value in row.items() if name not in _OUTSIDE_DIGEST}
        digest.update(json.dumps(seen, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()


def write_manifest(path: Path, rows: list[dict[str, Any]], labels: tuple[LabelColumn, ...]) -> None:
    """Write ``manifest.parquet``."""
    fields = [(name, _INTEGERS.get(name, pa.string())) for name in MANIFEST_COLUMNS]
    fields += [(f"label_{label.name}", pa.int64()) for label in labels]
    _write(path, rows, fields)


def write_refusals(path: Path, refusals: list[Refusal]) -> None:
    """Write ``refusals.parquet``, sorted."""
    ordered = sorted(refusals, key=lambda r: (r.source_sha256, r.frame, r.code, r.place_key))
    rows = [{name: getattr(refusal, name) for name in REFUSAL_COLUMNS} for refusal in ordered]
    _write(path, rows, [(name, _REFUSAL_TYPES.get(name, pa.string())) for name in REFUSAL_COLUMNS])


def _write(path: Path, rows: list[dict[str, Any]], fields: list[tuple[str, Any]]) -> None:
    schema = pa.schema(fields, metadata={"schema_version": "1"})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def dataset_info(
    rows: list[dict[str, Any]],
    refusals: list[Refusal],
    columns: tuple[LabelColumn, ...],
    contract: Contract,
    names: tuple[str, tuple[str, ...]],
) -> DatasetInfo:
    """Return the document ``dataset.json``. ``names``: the data set's own, and those of its shards."""
    name, shards = names
    splits = Counter(row["split"] for row in rows)
    labels = []
    for column in columns:
        counts = Counter(row[f"label_{column.name}"] for row in rows)
        labels.append(
            Label(
                name=column.name,
                kind=column.kind,
                classes=column.classes,
                counts=tuple(counts[k] for k in range(len(column.classes))),
                missing=counts[None],
            )
        )
    return DatasetInfo(
        name=name,
        hilum_version=our_version(),
        contract_name=contract.name,
        contract_sha256=contract.digest(),
        size=contract.size,
        channels=contract.channels,
        images=len(rows),
        patients=len({row["patient"] for row in rows}),
        files_read=len(rows) + len(refusals),
        refused=dict(sorted(Counter(refusal.code for refusal in refusals).items())),
        splits={split: splits[split] for split in SPLITS if split != "external" or splits[split]},
        labels=tuple(labels),
        shards=shards,
        content_sha256=content_digest(rows),
    )
