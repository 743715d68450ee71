"""On which side of a fundus photograph the optic disc lies, and how sure that is. numpy only."""

import numpy as np
from numpy.typing import NDArray

from pipeline.ingest.leaks.small import binned

Floats = NDArray[np.float32]

LEAST_SIDE = 112
"""At this side it is looked for; smaller pictures don't show it clearly enough."""
_SIDE = LEAST_SIDE
_DARK = 24
_RADIUS = _SIDE / 14
"""About the disc's: it is a seventh to an eighth of a field of 45 degrees across."""


def disc_side(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return -1 (left of the picture) to 1 (right) for pictures [N, S, S, 3] of the whole field.

    S is at least :data:`LEAST_SIDE`.

    The disc is the bright spot of its size in which vessels run up and down: brightness above the
    surroundings times the root of vertical minus horizontal edge energy, looked for half way
    between centre and rim near the horizontal midline. The answer compares the best place of
    either half; its size is how sure it is. In an upright photograph centred between disc and
    macula, -1 is a left eye and 1 a right eye.
    """
    colours = binned(pictures, _SIDE)
    red, green = colours[..., 0], colours[..., 1]
    field = (colours.sum(-1) > _DARK).astype(np.float32)
    grey = np.asarray(green + red / 2, np.float32)
    around = _within(grey, field, 3 * _RADIUS)
    contrast = _within(np.abs(grey - around), field, 3 * _RADIUS)
    bright = (_within(grey, field, 0.6 * _RADIUS) - around) / (contrast + 1)
    inner = _blurred(field, 3) > 0.9
    edges = _steepness(green, inner, -1) - _steepness(green, inner, -2)
    edges /= _variance(green, field)[:, None, None] + 1
    place = np.maximum(bright, 0) * np.sqrt(np.maximum(edges, 0)) * inner * _expected()
    half = _SIDE // 2
    gap = round(0.05 * half)
    left = place[:, :, : half - gap].max(axis=(1, 2)).astype(np.float64)
    right = place[:, :, half + gap :].max(axis=(1, 2)).astype(np.float64)
    return np.asarray((right - left) / (right + left + 1e-9))


def _steepness(values: Floats, inner: NDArray[np.bool_], axis: int) -> Floats:
    # gradient's type says float64 even for float32
    slope = np.asarray(np.gradient(values, axis=axis) * inner, np.float32)
    return _within(np.square(slope), inner.astype(np.float32), 0.7 * _RADIUS)


def _expected() -> Floats:
    # where a disc lies in photographs centred on the macula or between both, in half fields
    middle = (_SIDE - 1) / 2
    steps = (np.arange(_SIDE) - middle) / (_SIDE / 2)
    down, across = steps[:, None], steps[None, :]
    near = np.exp(-0.5 * (down / 0.2) ** 2 - 0.5 * ((np.abs(across) - 0.5) / 0.3) ** 2)
    return np.asarray(near * (np.hypot(down, across) < 0.9), np.float32)


def _variance(values: Floats, field: Floats) -> Floats:
    count = np.maximum(field.sum((1, 2)), 1)
    mean = (values * field).sum((1, 2)) / count
    apart = np.square(values - mean[:, None, None]) * field
    return np.asarray(apart.sum((1, 2)) / count)


def _within(values: Floats, field: Floats, sigma: float) -> Floats:
    # blurred inside the field only: the black around it doesn't count
    return np.asarray(_blurred(values * field, sigma) / np.maximum(_blurred(field, sigma), 1e-3))


def _blurred(values: Floats, sigma: float) -> Floats:
    # two box filters of this radius have about the spread of a Gaussian
    radius = max(1, round(1.22 * sigma - 0.5))
    for _ in range(2):
        values = _boxed(_boxed(values, radius, -1), radius, -2)
    return values


def _boxed(values: Floats, radius: int, axis: int) -> Floats:
    margin = [(0, 0)] * values.ndim
    margin[axis] = (radius + 1, radius)
    sums = np.cumsum(np.pad(values, margin), axis=axis, dtype=np.float64)
    count, width = values.shape[axis], 2 * radius + 1
    upper = np.take(sums, range(width, width + count), axis)
    lower = np.take(sums, range(count), axis)
    return np.asarray((upper - lower) / width, np.float32)
