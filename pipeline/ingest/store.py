"""Opens a data set folder: its documents checked, its pixels memory-mapped."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_schemas.contract import Contract
from data_schemas.dataset import MANIFEST_COLUMNS, DatasetInfo
from data_schemas.errors import DatasetError, HilumError
from data_schemas.terms import SPLITS
from pipeline.ingest.write import CONTRACT, INFO, MANIFEST, REFUSED


@dataclass(frozen=True)
class Dataset:
    """A data set on disk. Indices count the manifest's rows."""

    folder: Path
    info: DatasetInfo
    contract: Contract
    manifest: pa.Table
    _shards: tuple[NDArray[np.uint8], ...] = field(repr=False)
    _shard: NDArray[np.int64] = field(repr=False)
    _row: NDArray[np.int64] = field(repr=False)

    def indices(self, split: str) -> NDArray[np.int64]:
        """Return the images of a split, in manifest order."""
        if split not in SPLITS:
            raise DatasetError(f"`{split}` is no split", mend=f"splits: {', '.join(SPLITS)}")
        return np.flatnonzero(self._strings("split") == split)

    def labels(self, name: str) -> NDArray[np.int64]:
        """Return a label's values of all images, int64 [images]; -1 where the value is not known."""
        column = f"label_{name}"
        if column not in self.manifest.column_names:
            known = ", ".join(label.name for label in self.info.labels) or "none"
            raise DatasetError(
                f"the data set has no label `{name}`", where=self.folder, mend=f"labels: {known}"
            )
        values: NDArray[Any] = self.manifest[column].fill_null(-1).to_numpy()
        return values.astype(np.int64)

    def patients(self) -> NDArray[np.str_]:
        """Return the pseudonyms of all images, str [images]."""
        return self._strings("patient")

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return prepared arrays, uint8 [n, size, size, channels], read from the memory map."""
        places = np.asarray(indices, np.int64)
        side = self.info.size
        out = np.empty((len(places), side, side, self.info.channels), np.uint8)
        shard, row = self._shard[places], self._row[places]
        for number, pixels in enumerate(self._shards):
            here = np.flatnonzero(shard == number)
            if len(here):
                out[here] = pixels[row[here]]
        return out

    def read(self, index: int) -> bytes:
        """Return the bytes of one prepared array, read from its file: nothing stays mapped in memory."""
        name = self.info.shards[self._shard[index]]
        length = self.info.size**2 * self.info.channels
        with (self.folder / name).open("rb") as stream:
            np.lib.format.read_magic(stream)
            np.lib.format.read_array_header_1_0(stream)
            stream.seek(int(self._row[index]) * length, os.SEEK_CUR)
            pixels: bytes = stream.read(length)
        return pixels

    def copies(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return what :meth:`pixels` does, read from the files.

        Pages of a memory map count as this process's memory until they are needed elsewhere: a pass
        over the whole data set would seem to need all of it.
        """
        side = self.info.size
        out = np.empty((len(indices), side, side, self.info.channels), np.uint8)
        for place, index in enumerate(indices):
            out[place] = np.frombuffer(self.read(int(index)), np.uint8).reshape(out.shape[1:])
        return out

    def refusals(self) -> list[dict[str, Any]]:
        """Return the rows of ``refusals.parquet``, without their thumbnails."""
        path = self.folder / REFUSED
        try:
            names = [name for name in pq.read_schema(path).names if name != "thumbnail"]
            rows: list[dict[str, Any]] = pq.read_table(path, columns=names).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DatasetError("the refusals are missing or can't be read", where=path) from error
        return rows

    def resplit(self, splits: NDArray[np.str_]) -> "Dataset":
        """Return the same images under other splits, in memory only; content digest and folder stay.

        Parameters
        ----------
        splits
            The new split of each image, [images]; an image whose word is empty is left out.

        Raises
        ------
        DatasetError
            If a word is no split.
        """
        words = np.asarray(splits, np.str_)
        unknown = sorted(set(words.tolist()) - {"", *SPLITS})
        if unknown or len(words) != self.info.images:
            raise DatasetError(
                f"{len(words)} splits for {self.info.images} images, unknown among them: {unknown}"
            )
        kept = np.flatnonzero(words != "")
        manifest = self.manifest.take(pa.array(kept))
        column = manifest.column_names.index("split")
        manifest = manifest.set_column(column, "split", pa.array(words[kept].tolist(), pa.string()))
        info = self.info.model_copy(
            update={
                "images": len(kept),
                "patients": len(set(manifest["patient"].to_pylist())),
                "splits": {name: int((words == name).sum()) for name in SPLITS if name in words},
                "published_test": False,
                "leaks": None,
            }
        )
        return replace(
            self, info=info, manifest=manifest, _shard=self._shard[kept], _row=self._row[kept]
        )

    def _strings(self, column: str) -> NDArray[np.str_]:
        return np.array(self.manifest[column].to_pylist(), dtype=np.str_)


def open_dataset(folder: Path) -> Dataset:
    """Open a data set folder.

    Raises
    ------
    DatasetError
        If it is no data set, or its files don't fit one another.
    HilumError
        If it was written by another schema version.
    """
    if not (folder / INFO).is_file():
        raise DatasetError(
            f"is no data set: it has no {INFO}", where=folder, mend="make one with `hilum ingest`"
        )
    info = DatasetInfo.read_json(folder / INFO)
    contract = Contract.read_json(folder / CONTRACT)
    if contract.digest() != info.contract_sha256:
        raise DatasetError(f"{CONTRACT} is not the contract of {INFO}", where=folder)
    manifest = _manifest(folder / MANIFEST, info)
    shards = tuple(_shard(folder / name, info) for name in info.shards)
    dataset = Dataset(
        folder,
        info,
        contract,
        manifest,
        shards,
        manifest["shard"].to_numpy().astype(np.int64),
        manifest["row"].to_numpy().astype(np.int64),
    )
    _check_places(dataset, shards)
    return dataset


def _manifest(path: Path, info: DatasetInfo) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError("the manifest is missing or can't be read", where=path) from error
    found = (table.schema.metadata or {}).get(b"schema_version", b"none").decode()
    if found != "1":
        raise HilumError(f"schema_version is {found}, this hilum reads 1", where=path)
    expected = [*MANIFEST_COLUMNS, *(f"label_{label.name}" for label in info.labels)]
    missing = [name for name in expected if name not in table.column_names]
    if missing:
        raise DatasetError(f"the manifest lacks {', '.join(missing)}", where=path)
    if table.num_rows != info.images:
        raise DatasetError(
            f"the manifest has {table.num_rows} rows, {INFO} says {info.images}", where=path
        )
    return table


def _shard(path: Path, info: DatasetInfo) -> NDArray[np.uint8]:
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DatasetError("the shard is missing or can't be read", where=path) from error
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (info.size, info.size, info.channels):
        raise DatasetError(f"the shard doesn't hold what {INFO} says", where=path)
    return pixels  # type: ignore[no-any-return]


def _check_places(dataset: Dataset, shards: tuple[NDArray[np.uint8], ...]) -> None:
    lengths = np.array([len(shard) for shard in shards], np.int64)
    shard, row = dataset._shard, dataset._row  # noqa: SLF001 - its own
    good = bool(len(shards)) and bool((shard < len(shards)).all()) and bool((shard >= 0).all())
    if not good or bool((row >= lengths[shard]).any()) or bool((row < 0).any()):
        raise DatasetError("the manifest points outside the shards", where=dataset.folder)
