"""Asks whether the demo's evidence points at the lesions that were drawn, on the test split."""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_schemas.errors import DatasetError
from pipeline.demo.cohort import read_truth
from pipeline.evaluate.localisation import Localisation, localise, permuted
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import read
from pipeline.ingest.store import Dataset
from pipeline.model.package import Package

PERMUTATION_SEED = 0


def point(package: Package, dataset: Dataset, cohort: Path, split: str = "test") -> Localisation:
    """Play the pointing game on a split of a drawn cohort, beside a network with permuted weights.

    Raises
    ------
    DatasetError
        If the data set wasn't made from this cohort.
    """
    chosen = dataset.indices(split)
    label = package.card.primary
    masks = prepared_masks(dataset, chosen, cohort)
    with tempfile.TemporaryDirectory(prefix="hilum-permuted-") as scratch:
        shuffled = permuted(package, PERMUTATION_SEED, Path(scratch) / "package")
        return localise(
            package,
            shuffled,
            dataset.pixels(chosen),
            dataset.labels(label)[chosen],
            masks,
            label=label,
        )


def prepared_masks(dataset: Dataset, chosen: NDArray[np.int64], cohort: Path) -> NDArray[np.bool_]:
    """Return the drawn lesions in the prepared arrays' own pixels, ``[n, size, size]``.

    The files are read again for the rectangle that each array shows.
    """
    truth = read_truth(cohort)
    size = dataset.info.size
    digests = dataset.manifest["source_sha256"].to_pylist()
    masks = np.zeros((len(chosen), size, size), dtype=np.bool_)
    for place, index in enumerate(chosen):
        row = truth.get(digests[index])
        if row is None:
            raise DatasetError("the data set was not made from this cohort", where=cohort)
        data = (cohort / "archive" / row["image"]).read_bytes()
        prepared = prepare(read(data, dataset.contract), dataset.contract)
        with Image.open(cohort / "truth/masks" / f"{digests[index]}.png") as mask:
            masks[place] = _shown(np.asarray(mask) > 0, prepared.region, size)
    return masks


def _shown(
    mask: NDArray[np.bool_], region: tuple[int, int, int, int], size: int
) -> NDArray[np.bool_]:
    """Cut a region, which may reach outside, and scale it; a cell counts if a tenth of it does."""
    top, left, height, width = region
    plain = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    square = plain.crop((left, top, left + width, top + height))
    small = square.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small) > 25
