"""The .npz files of MedMNIST (Yang et al., Scientific Data 2023): arrays, labels, official splits."""

import hashlib
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import DatasetError
from data_schemas.files import sha256
from data_schemas.terms import Split
from pipeline.ingest.labels import LabelColumn
from pipeline.ingest.listing import Listing
from pipeline.ingest.records import Given, SourceFile

_MOST_BYTES = 8 * 2**30
_PARTS = ("train", "val", "test")
# name -> label, classes in order, MD5 of the official 28-pixel file (medmnist 3.0.2)
_KNOWN: dict[str, tuple[str, tuple[str, ...], str]] = {
    "retinamnist": ("dr_grade", ("0", "1", "2", "3", "4"), "bd4c0672f1bba3e3a89f0e4e876791e4"),
    "breastmnist": ("label", ("malignant", "normal or benign"), "750601b1f35ba3300ea97c75c52ff8f6"),
    "pneumoniamnist": ("label", ("normal", "pneumonia"), "28209eda62fecd6e6a2d98b1501bb15f"),
}


def is_npz(source: Path) -> bool:
    """Tell whether ``source`` is a file that ends in .npz."""
    return source.suffix == ".npz" and source.is_file()


def from_npz(source: Path) -> Listing:
    """Read a MedMNIST file.

    Official training images go to train, validation images by halves to tune and calibration
    (every class in both), test images to test, which stays whole. Patients are not given: every
    image counts as its own.

    Raises
    ------
    DatasetError
        If it is not such a file, or pickled, or too large.
    """
    arrays = _load(source)
    remarks = ["no patients are given: every image counts as its own patient"]
    label, classes, digest = _KNOWN.get(source.stem, ("label", (), ""))
    if digest:
        found = hashlib.md5(source.read_bytes(), usedforsecurity=False).hexdigest()
        same = "is the official file" if found == digest else "is NOT the official file"
        remarks.append(f"{source.name} {same} by its MD5")
    values = {part: _labels(arrays, part, source) for part in _PARTS}
    columns = _columns(np.concatenate(list(values.values())), label, classes)
    files: list[SourceFile] = []
    for part in _PARTS:
        images = arrays[f"{part}_images"]
        digests = [sha256(np.ascontiguousarray(image).data) for image in images]
        splits = _splits(part, values[part], digests)
        for k, image in enumerate(images):
            labels = tuple(int(value) for value in values[part][k])
            given = Given(labels, splits[k], part == "test")
            fetch = partial(_itself, image)
            # the pixels' digest is a state that can't lie
            files.append(SourceFile(f"{part}/{k}", fetch, image.nbytes, digests[k], given))
    return Listing(tuple(files), columns, tuple(remarks))


def _itself(image: NDArray[Any]) -> NDArray[Any]:
    return image


def _load(source: Path) -> dict[str, NDArray[Any]]:
    wanted = [f"{part}_{what}" for part in _PARTS for what in ("images", "labels")]
    try:
        with zipfile.ZipFile(source) as archive:
            total = sum(info.file_size for info in archive.infolist())
        if total > _MOST_BYTES:
            raise DatasetError(f"unpacks to {total} bytes, more than {_MOST_BYTES}", where=source)
        with np.load(source, allow_pickle=False) as archive:
            missing = [name for name in wanted if name not in archive]
            if missing:
                raise DatasetError(f"is not a MedMNIST file: no {', '.join(missing)}", where=source)
            return {name: archive[name] for name in wanted}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DatasetError("can't be read as a .npz of plain arrays", where=source) from error


def _labels(arrays: dict[str, NDArray[Any]], part: str, source: Path) -> NDArray[Any]:
    images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    if labels.ndim == 1:
        labels = labels[:, None]
    good = labels.ndim == 2 and len(labels) == len(images) and labels.dtype.kind in "iu"
    if not good or (labels.size and int(labels.min()) < 0):
        raise DatasetError(f"the {part} labels don't fit the {part} images", where=source)
    return labels


def _columns(values: NDArray[Any], label: str, classes: tuple[str, ...]) -> tuple[LabelColumn, ...]:
    if values.shape[1] > 1:  # several binary questions
        return tuple(
            LabelColumn(f"{label}_{k}", "binary", ("0", "1")) for k in range(values.shape[1])
        )
    count = max(int(values.max()) + 1, 2)
    if len(classes) != count:
        classes = tuple(str(k) for k in range(count))
    return (LabelColumn(label, "binary" if count == 2 else "classes", classes),)


def _splits(part: str, values: NDArray[Any], digests: list[str]) -> list[Split]:
    if part != "val":
        return ["train" if part == "train" else "test"] * len(digests)
    # alternating within each class: halves of the same make-up, the same on every run
    order = sorted(range(len(digests)), key=lambda k: (values[k].tolist(), digests[k]))
    splits: list[Split] = ["tune"] * len(digests)
    for place, k in enumerate(order):
        splits[k] = "calibration" if place % 2 else "tune"
    return splits
