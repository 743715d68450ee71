"""Brings a region of a picture to the contract's size, by averaging, in integers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GAP = 5 / 3
"""Whole blocks are averaged first, down to no less than this many times the target."""

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

    Down by a whole number: the mean of each block. Down by anything else: blocks to 5/3 of the
    target at least, then the Hamming kernel, which comes nearer to the exact area average than Pillow's
    box (it counts whole pixels) or Lanczos do. Up: linear. Pillow computes all of them in integers,
    so the result does not depend on the machine.
    """
    left, top, right, bottom = box or (0, 0, levels.shape[1], levels.shape[0])
    height, width = bottom - top, right - left
    if (height, width) == target and all(value == int(value) for value in (left, top)):
        part = levels[int(top) : int(bottom), int(left) : int(right)]
        return np.ascontiguousarray(part)
    across, along = width / target[1], height / target[0]
    even = across == int(across) and along == int(along)
    kind = Image.Resampling.HAMMING if min(across, along) >= 1 else Image.Resampling.BILINEAR
    image = Image.fromarray(levels)
    small = image.resize(
        target[::-1],
        Image.Resampling.BOX if even else kind,
        (left, top, right, bottom),
        reducing_gap=1.0 if even else GAP,
    )
    return np.asarray(small)


def _whole(place: int, length: int, size: int) -> int:
    # half up, in integers
    return min(size, (2 * place * size + length) // (2 * length))
