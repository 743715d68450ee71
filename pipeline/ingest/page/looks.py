"""Looks at the prepared images of a data set in blocks: intensities, and pictures to show."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.ingest.store import Dataset
from pipeline.ingest.thumbnail import thumbnail

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

MOST_MEASURED = 4096
"""Images whose intensities are measured: of a larger data set, evenly spaced ones."""
_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Intensities:
    """Mean and spread of the pixels that are not black, for some images."""

    indices: Indices
    mean: Floats
    spread: Floats


def spaced(indices: Indices, most: int) -> Indices:
    """Return at most ``most`` of ``indices``, evenly spaced.

    A manifest is in the order of digests, which is as good as drawn by lot.
    """
    if len(indices) <= most:
        return indices
    return indices[np.linspace(0, len(indices) - 1, most).round().astype(np.int64)]


def intensities(dataset: Dataset) -> Intensities:
    """Measure images in blocks; black (0) is left out, for it is the frame around the content."""
    chosen = spaced(np.arange(dataset.info.images), MOST_MEASURED)
    mean, spread = np.zeros(len(chosen)), np.zeros(len(chosen))
    for start in range(0, len(chosen), _BLOCK):
        block = dataset.copies(chosen[start : start + _BLOCK])
        for k, pixels in enumerate(block, start):
            grey = pixels.mean(axis=2) if pixels.shape[2] == 3 else pixels[..., 0].astype(float)
            seen = grey[grey > 0]
            if len(seen):
                mean[k], spread[k] = float(seen.mean()), float(seen.std())
    return Intensities(chosen, mean, spread)


def thumbnails(dataset: Dataset, indices: Iterable[int]) -> dict[int, bytes]:
    """Return small JPEGs of some images, by index."""
    return {
        int(index): thumbnail(dataset.copies(np.array([index]))[0]) for index in sorted({*indices})
    }
