"""The .npz files of MedMNIST (Yang et al., Scientific Data 2023): arrays, labels, official splits.

Images are read one by one out of the compressed file, forwards: a set of 224 pixels is larger than
memory, and no process needs more than one image of it.
"""

import hashlib
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import DatasetError, ImageError
from data_schemas.files import sha256
from data_schemas.progress import Progress
from data_schemas.terms import Split
from pipeline.ingest.labels import LabelColumn
from pipeline.ingest.records import Given, SourceFile
from pipeline.ingest.sources.folder import stamp_of
from pipeline.ingest.sources.kept import kept
from pipeline.ingest.sources.listing import Listing
from pipeline.ingest.sources.medmnist_sets import SETS, MedMnist

_MOST_LABEL_BYTES = 2**30
_PARTS = ("train", "val", "test")
_BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError)


def open_npz(source: Path, progress: Progress) -> Listing:
    """List a MedMNIST file.

    Official training images go to train, validation images by halves to tune and calibration
    (every class in both), test images to test, which stays whole. Patients are not given: every
    image counts as its own.

    Raises
    ------
    DatasetError
        If it is not such a file, or pickled.
    """
    try:
        labels, shapes = _heads(source)
        known, remarks = _recognised(source, {part: shapes[part][0] for part in _PARTS})
        columns = _columns(np.concatenate(list(labels.values())), known)
        stamp = stamp_of(source)
        files: list[SourceFile] = []
        total = sum(shapes[part][0] for part in _PARTS)
        for part in _PARTS:
            reader = partial(read_image, str(source), stamp, part)
            splits = _splits(part, labels[part], reader)
            for k, split in enumerate(splits):
                values = tuple(int(value) for value in labels[part][k])
                given = Given(values, split, part == "test")
                fetch = partial(reader, k)
                files.append(SourceFile(f"{part}/{k}", fetch, -1, f"{stamp}:{part}/{k}", given))
            progress(len(files), total, "listing")
    except (*_BROKEN, ImageError) as error:
        raise DatasetError("can't be read as a .npz of plain arrays", where=source) from error
    return Listing(source.stem, tuple(files), columns, remarks)


def side_of(source: Path) -> int | None:
    """Return the side of a MedMNIST file's images, pixels; None if it is none: opening it says why."""
    try:
        _, shapes = _heads(source)
    except (*_BROKEN, DatasetError):
        return None
    return max(shapes["train"][1:3])


def read_image(source: str, stamp: str, part: str, number: int) -> NDArray[Any]:
    """Return one image [H, W] or [H, W, 3] of a part.

    Raises
    ------
    ImageError
        UNREADABLE, if the file can't be read any more or was changed.
    """
    try:
        with kept(("npz", source, stamp, part), partial(_open, source, stamp, part)) as opened:
            stream, start, shape, dtype = opened
            size = int(np.prod(shape[1:])) * dtype.itemsize
            stream.seek(start + number * size)
            data = stream.read(size)
    except _BROKEN as error:
        raise ImageError("UNREADABLE", "the .npz can't be read from its storage") from error
    if len(data) != size:
        raise ImageError("TRUNCATED", "the .npz ends inside this image")
    pixels: NDArray[Any] = np.frombuffer(data, dtype).reshape(shape[1:])
    return pixels


def _open(
    source: str, stamp: str, part: str, stack: ExitStack
) -> tuple[IO[bytes], int, tuple[int, ...], Any]:
    if stamp_of(Path(source)) != stamp:
        raise ImageError("UNREADABLE", "the .npz changed while it was read")
    archive = stack.enter_context(zipfile.ZipFile(source))
    stream = stack.enter_context(archive.open(f"{part}_images.npy"))
    shape, dtype = _npy_header(stream)
    return stream, stream.tell(), shape, dtype


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], Any]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.hasobject or fortran or dtype.kind not in "iu":
        raise ValueError("not an array of whole numbers in C order")
    return shape, dtype


def _heads(source: Path) -> tuple[dict[str, NDArray[Any]], dict[str, tuple[int, ...]]]:
    # labels whole; of the images only the shape
    wanted = [f"{part}_{what}" for part in _PARTS for what in ("images", "labels")]
    with zipfile.ZipFile(source) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        missing = [name for name in wanted if f"{name}.npy" not in sizes]
        if missing:
            raise DatasetError(f"is not a MedMNIST file: no {', '.join(missing)}", where=source)
        large = [part for part in _PARTS if sizes[f"{part}_labels.npy"] > _MOST_LABEL_BYTES]
        if large:
            raise DatasetError(f"the {large[0]} labels unpack to over 1 GiB", where=source)
        shapes: dict[str, tuple[int, ...]] = {}
        for part in _PARTS:
            with archive.open(f"{part}_images.npy") as stream:
                shapes[part] = _npy_header(stream)[0]
            if len(shapes[part]) not in (3, 4):
                raise DatasetError(f"the {part} images are no pictures", where=source)
    with np.load(source, allow_pickle=False) as arrays:
        labels = {part: arrays[f"{part}_labels"] for part in _PARTS}
    return {part: _checked(labels[part], shapes[part], part, source) for part in _PARTS}, shapes


def _checked(labels: NDArray[Any], shape: tuple[int, ...], part: str, source: Path) -> NDArray[Any]:
    if labels.ndim == 1:
        labels = labels[:, None]
    good = labels.ndim == 2 and len(labels) == shape[0] and labels.dtype.kind in "iu"
    if not good or (labels.size and int(labels.min()) < 0):
        raise DatasetError(f"the {part} labels don't fit the {part} images", where=source)
    return labels


def _recognised(source: Path, found: dict[str, int]) -> tuple[MedMnist | None, tuple[str, ...]]:
    """Tell which set it is by the MD5, else by the name, and say which of the two."""
    with source.open("rb") as stream:
        digest = hashlib.file_digest(
            stream, partial(hashlib.md5, usedforsecurity=False)
        ).hexdigest()
    patients = "no patients are given: every image counts as its own patient"
    for name, known in SETS.items():
        if digest in known.md5:
            size = (28, 64, 128, 224)[known.md5.index(digest)]
            return known, (f"is the official file of {name} ({size} pixels) by its MD5", patients)
    named = SETS.get(source.stem.partition("_")[0].lower())
    if named is None:
        return None, ("is no official file of MedMNIST by its MD5", patients)
    here = " / ".join(str(found[part]) for part in _PARTS)
    there = " / ".join(str(count) for count in named.images)
    remark = (
        f"{source.name} is NOT the official file by its MD5: it holds {here} images "
        f"(train / val / test), the official one {there}"
    )
    return named, (remark, patients)


def _columns(values: NDArray[Any], known: MedMnist | None) -> tuple[LabelColumn, ...]:
    label = "label" if known is None else known.label
    width = values.shape[1]
    if width > 1:  # several binary questions
        names = [f"{label}_{k}" for k in range(width)]
        if known is not None and known.several and len(known.classes) == width:
            names = list(known.classes)
        return tuple(LabelColumn(name, "binary", ("0", "1")) for name in names)
    count = max(int(values.max(initial=0)) + 1, 2)
    if known is not None and not known.several and len(known.classes) >= count:
        return (LabelColumn(label, known.kind, known.classes),)
    classes = tuple(str(k) for k in range(count))
    return (LabelColumn(label, "binary" if count == 2 else "classes", classes),)


def _splits(part: str, values: NDArray[Any], reader: "partial[NDArray[Any]]") -> Iterator[Split]:
    if part != "val":
        return iter(["train" if part == "train" else "test"] * len(values))
    # alternating within each class: halves of the same make-up, the same on every run
    digests = [sha256(reader(k).tobytes()) for k in range(len(values))]
    order = sorted(range(len(digests)), key=lambda k: (values[k].tolist(), digests[k]))
    splits: list[Split] = ["tune"] * len(digests)
    for place, k in enumerate(order):
        splits[k] = "calibration" if place % 2 else "tune"
    return iter(splits)
