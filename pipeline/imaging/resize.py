"""Brings a region of a picture to the contract's size, by averaging, in integers."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.imaging.kernels import convolved

_GAP = 5 / 3
_MARGIN = 8
"""Blocks: the kernel reaches two pixels of the target, each less than 2 x 5/3 blocks."""

Region = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, repr=False)
class View:
    """A source's grey levels or colours, perhaps smaller than it is."""

    levels: NDArray[np.uint8]
    """[h, w] or [h, w, 3]; each pixel stands for step x step of the source's, the last of a row or
    column for what was left."""
    step: int
    rows: int
    columns: int
    """The source's own size, pixels."""


def fit(view: View, region: Region, size: int) -> NDArray[np.uint8]:
    """Show a rectangle (top, left, height, width in source pixels) as a square of ``size``.

    Black where the rectangle reaches outside; what shows the source is whole pixels.
    """
    top, left, height, width = region
    first, last = max(top, 0), min(top + height, view.rows)
    start, end = max(left, 0), min(left + width, view.columns)
    if last <= first or end <= start:
        return np.zeros((size, size, *view.levels.shape[2:]), np.uint8)
    up, down = _whole(first - top, height, size), _whole(last - top, height, size)
    near, far = _whole(start - left, width, size), _whole(end - left, width, size)
    # a sliver keeps one pixel
    up, near = min(up, size - 1), min(near, size - 1)
    down, far = max(down, up + 1), max(far, near + 1)
    box = (start / view.step, first / view.step, end / view.step, last / view.step)
    part = resample(view.levels, (down - up, far - near), box)
    if part.shape[:2] == (size, size):
        return part
    out = np.zeros((size, size, *part.shape[2:]), np.uint8)
    out[up:down, near:far] = part
    return out


def resize(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize all of a uint8 [H, W] or [H, W, 3] to a square of ``size``; see :func:`resample`."""
    return resample(pixels, (size, size))


def resample(
    levels: NDArray[np.uint8],
    target: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
) -> NDArray[np.uint8]:
    """Resize ``box`` (left, top, right, bottom; all of it by default) to ``target`` (rows, columns).

    Whole blocks are averaged first (:func:`block_side`), by Pillow; where the ratio is a whole number that
    is all. The rest is left to the cubic kernel, whose mean distance from the exact area average (0.32
    levels of fundus photographs, of which rounding makes 0.23) hardly depends on the ratio. Up: linear.
    All are computed in integers, so the result does not depend on the machine.
    """
    left, top, right, bottom = box or (0, 0, levels.shape[1], levels.shape[0])
    across = block_side((right - left) / target[1])
    along = block_side((bottom - top) / target[0])
    rows, columns = _cut(top, bottom, along), _cut(left, right, across)
    part = levels[rows, columns]
    if max(across, along) > 1:
        part = np.asarray(Image.fromarray(part).reduce((across, along)))
    left, right = (left - columns.start) / across, (right - columns.start) / across
    top, bottom = (top - rows.start) / along, (bottom - rows.start) / along
    height, width = bottom - top, right - left
    if (height, width) == target and left == int(left) and top == int(top):
        return np.ascontiguousarray(part[int(top) : int(bottom), int(left) : int(right)])
    smaller = height >= target[0] and width >= target[1]
    return convolved(part, target, (left, top, right, bottom), "cubic" if smaller else "linear")


def block_side(ratio: float) -> int:
    """Return the side of the blocks to average before what is left is resized evenly.

    A whole ratio itself, for then the blocks are all there is to do; else what leaves at least 5/3.
    """
    return int(ratio) if ratio >= 1 and ratio == int(ratio) else max(1, int(ratio / _GAP))


def _cut(first: float, last: float, step: int) -> slice:
    # what the kernel can't reach needn't be copied; blocks begin where the box begins
    start = int(first)
    return slice(start - step * min(_MARGIN, start // step), math.ceil(last) + step * _MARGIN)


def _whole(place: int, length: int, size: int) -> int:
    # half up, in integers
    return min(size, (2 * place * size + length) // (2 * length))
