"""Convolves a picture to another size in integers: a fast library, and the same arithmetic in numpy.

The arithmetic here is the definition. The library (cykooz.resizer) is asked once whether it gives the same
pixels on this processor; where it doesn't, or has no wheel, numpy does the work, some fifty times slower.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

try:
    import cykooz_resizer
except ImportError:  # no wheel for this processor
    cykooz_resizer = None

Kernel = Literal["linear", "cubic"]
Box = tuple[float, float, float, float]
Floats = NDArray[np.float64]

_WEIGHT_LIMIT = 1 << 15
"""Weights are rounded to 16 bits with a sign."""
_MOST_BITS = 22


def convolved(
    levels: NDArray[np.uint8], target: tuple[int, int], box: Box, kernel: Kernel
) -> NDArray[np.uint8]:
    """Resize ``box`` (left, top, right, bottom) of [H, W] or [H, W, 3] to ``target`` (rows, columns).

    First down the columns, then along the rows, each rounded half up to 8 bits. Going down, the kernel
    is as wide as a target pixel, so that every source pixel counts.

    Parameters
    ----------
    kernel
        ``linear``: the triangle, two pixels wide; ``cubic``: Catmull and Rom (1974), four pixels wide.
    """
    if library_agrees():
        return _by_library(levels, target, box, kernel)
    return convolved_by_numpy(levels, target, box, kernel)


@cache
def library_agrees() -> bool:
    """Tell whether the library is there and gives the pixels that :func:`convolved_by_numpy` gives."""
    if cykooz_resizer is None:
        return False
    trial = np.random.default_rng(0).integers(0, 256, (41, 67, 3)).astype(np.uint8)
    return all(
        np.array_equal(
            _by_library(levels, target, box, kernel),
            convolved_by_numpy(levels, target, box, kernel),
        )
        for levels in (trial, np.ascontiguousarray(trial[..., 0]))
        for target, box in (((23, 31), (0.0, 0.0, 67.0, 41.0)), ((90, 71), (3.3, 2.0, 60.7, 40.5)))
        for kernel in _KERNELS
    )


def _by_library(
    levels: NDArray[np.uint8], target: tuple[int, int], box: Box, kernel: Kernel
) -> NDArray[np.uint8]:
    left, top, right, bottom = box
    form = cykooz_resizer.PixelType.U8 if levels.ndim == 2 else cykooz_resizer.PixelType.U8x3
    rows, columns = levels.shape[:2]
    source = cykooz_resizer.ImageData(columns, rows, form, levels.tobytes())
    result = cykooz_resizer.ImageData(target[1], target[0], form)
    options = cykooz_resizer.ResizeOptions(
        _convolution(kernel),
        use_alpha=False,
        crop_box=cykooz_resizer.CropBox(left, top, right - left, bottom - top),
    )
    cykooz_resizer.Resizer().resize(source, result, options)
    return np.frombuffer(result.get_buffer(), np.uint8).reshape(*target, *levels.shape[2:])


def _convolution(kernel: Kernel) -> Any:
    kinds = cykooz_resizer.FilterType
    return cykooz_resizer.ResizeAlg.convolution(
        kinds.bilinear if kernel == "linear" else kinds.catmull_rom
    )


def convolved_by_numpy(
    levels: NDArray[np.uint8], target: tuple[int, int], box: Box, kernel: Kernel
) -> NDArray[np.uint8]:
    """Return what :func:`convolved` does, by the arithmetic that defines it."""
    left, top, right, bottom = box
    # the axis that is convolved stands last; after both, rows and columns do
    along = _one_axis(np.moveaxis(levels, 0, -1), (top, bottom), target[0], kernel)
    across = _one_axis(np.moveaxis(along, 0, -1), (left, right), target[1], kernel)
    return across if levels.ndim == 2 else np.ascontiguousarray(np.moveaxis(across, 0, -1))


def _one_axis(
    values: NDArray[np.uint8], ends: tuple[float, float], count: int, kernel: Kernel
) -> NDArray[np.uint8]:
    # the last axis; products and sums are whole numbers, exact in double precision in any order
    weights, bits = _weights(values.shape[-1], ends, count, kernel)
    sums = values.astype(np.float64) @ weights.T
    rounded = (sums.astype(np.int64) + (1 << (bits - 1))) >> bits
    clipped: NDArray[np.uint8] = np.clip(rounded, 0, 255).astype(np.uint8)
    return clipped


def _weights(
    length: int, ends: tuple[float, float], count: int, kernel: Kernel
) -> tuple[Floats, int]:
    """Return whole weights [count, length] and by how many bits they are scaled: as many as fit."""
    shape, reach = _KERNELS[kernel]
    scale = (ends[1] - ends[0]) / count
    wide = max(scale, 1.0)
    centres = ends[0] + (np.arange(count) + 0.5) * scale
    places = np.arange(length)
    first = np.maximum(np.floor(centres - reach * wide), 0)
    last = np.minimum(np.ceil(centres + reach * wide), length)
    weights = shape(np.abs(places - (centres - 0.5)[:, None]) * (1.0 / wide))
    weights[(places < first[:, None]) | (places >= last[:, None])] = 0.0
    weights /= weights.cumsum(axis=1)[:, -1:]  # one after the other, as the library sums
    most = float(weights.max())
    bits = next(k for k in range(_MOST_BITS) if round(most * 2 ** (k + 1)) >= _WEIGHT_LIMIT or k == _MOST_BITS - 1)  # fmt: skip
    scaled = weights * 2.0**bits
    return np.trunc(scaled + np.copysign(0.5, scaled)), bits


def _linear(away: Floats) -> Floats:
    return np.maximum(1.0 - away, 0.0)


def _cubic(away: Floats) -> Floats:
    near = (1.5 * away - 2.5) * away * away + 1.0
    far = (((away - 5.0) * away + 8.0) * away - 4.0) * -0.5
    return np.where(away < 1.0, near, np.where(away < 2.0, far, 0.0))


_KERNELS: dict[Kernel, tuple[Callable[[Floats], Floats], float]] = {
    "linear": (_linear, 1.0),
    "cubic": (_cubic, 2.0),
}
