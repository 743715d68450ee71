"""Finds structures in a picture that look like burned-in text: small sharp marks that stand in rows.

No reading takes place, so any alphabet will do. One mark, or two such as a side marker and its
companion, is no text line.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_STROKE = 9
"""Strokes are thinner than this, pixels at the scale that is looked at."""
_LEAST_CONTRAST = 56
_HEIGHTS = (6, 40)
_WIDEST = 2.2
"""Width of one mark, in heights."""
_FILL = (0.12, 0.92)
_CLEAN_AROUND = 0.3
"""Spread of the values around a mark, as a share of its contrast."""
_EVEN_INSIDE = 0.45
_GAP = 1.1
"""Widest gap between neighbours of one row, in heights."""
_LEAST_MARKS = 4
_LEAST_PIECES = 3
_LEAST_LENGTH = 2.0
"""Length of a row, in heights."""
_MOST_MARKS = 20_000
_LARGEST_SIDE = 4200


@dataclass(frozen=True, slots=True)
class TextLine:
    """A row of marks: its rectangle in the picture's pixels, and how many marks it has."""

    top: int
    left: int
    height: int
    width: int
    marks: int


def text_lines(picture: NDArray[np.uint8]) -> tuple[TextLine, ...]:
    """Return the rows of text-like marks in a picture, horizontal and vertical.

    Parameters
    ----------
    picture
        RGB uint8 [H, W, 3], as :func:`pipeline.imaging.picture.picture` gives it.
    """
    found: list[TextLine] = []
    strongest, green = picture.max(axis=2), picture[..., 1]
    views = [strongest, 255 - strongest]
    if (strongest != green).any():  # yellow on orange differs in green, black on orange in red
        views += [green, 255 - green]
    for levels in views:
        scale = 1
        while max(levels.shape) > _LARGEST_SIDE:
            levels, scale = _halved(levels), scale * 2  # noqa: PLW2901 - one picture, ever smaller
        for _ in range(3):
            if min(levels.shape) < 2 * _HEIGHTS[0]:
                break
            found += _lines(levels, scale)
            levels, scale = _halved(levels), scale * 2  # noqa: PLW2901
    return tuple(found)


def _lines(levels: NDArray[np.uint8], scale: int) -> list[TextLine]:
    boxes = _marks(levels)
    lines = _rows(boxes)
    for top, left, bottom, right, marks in _rows(boxes[:, [1, 0, 3, 2]]):
        if marks > _LEAST_MARKS:  # upright text is rare, columns of small things are not
            lines.append((left, top, right, bottom, marks))
    return [
        TextLine(top * scale, left * scale, (bottom - top) * scale, (right - left) * scale, marks)
        for top, left, bottom, right, marks in lines
    ]


def _halved(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = (side // 2 * 2 for side in levels.shape)
    cut = levels[:rows, :columns].astype(np.uint16)
    total = cut[::2, ::2] + cut[1::2, ::2] + cut[::2, 1::2] + cut[1::2, 1::2]
    return (total // 4).astype(np.uint8)


def _marks(levels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the boxes of bright, sharp, even marks on even ground: [N, 4] top, left, bottom, right.

    The white top-hat (grey opening subtracted; Serra 1982) leaves what is thinner than a stroke.
    """
    ground = ndimage.grey_opening(levels, size=(_STROKE, _STROKE))
    mask = levels.astype(np.int16) - ground >= _LEAST_CONTRAST
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    boxes = np.array(
        [
            (rows.start, columns.start, rows.stop, columns.stop)
            for rows, columns in ndimage.find_objects(labels)
        ],
        np.int64,
    ).reshape(-1, 4)
    numbers = np.arange(1, count + 1)
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    long, short = np.maximum(height, width), np.minimum(height, width)
    fill = np.bincount(labels.ravel(), minlength=count + 1)[1:] / np.maximum(height * width, 1)
    thin = short * 3 < long  # an i or a 1 fills its box
    fits = (long >= _HEIGHTS[0]) & (long <= _WIDEST * _HEIGHTS[1])
    fits &= (fill >= _FILL[0]) & ((fill <= _FILL[1]) | thin)
    chosen = numbers[fits][:_MOST_MARKS]
    clean = [_stands_out(levels, labels, int(number), boxes[number - 1]) for number in chosen]
    return boxes[chosen[np.array(clean, bool)] - 1] if len(chosen) else boxes[:0]


def _stands_out(
    levels: NDArray[np.uint8], labels: NDArray[np.int32], number: int, box: NDArray[np.int64]
) -> bool:
    """Tell whether a mark is of one brightness and stands on ground of one brightness."""
    top, left, bottom, right = (int(side) for side in box)
    window = (slice(max(0, top - 3), bottom + 3), slice(max(0, left - 3), right + 3))
    values, own = levels[window].astype(np.float32), labels[window] == number
    near = ndimage.binary_dilation(own, np.ones((3, 3)))
    ring = ndimage.binary_dilation(near, np.ones((3, 3)), 2) & ~near & (labels[window] == 0)
    if ring.sum() < 8:
        return False
    around = values[ring]
    contrast = float(np.percentile(values[own], 75) - np.median(around))
    if contrast < _LEAST_CONTRAST:
        return False
    return bool(
        around.std() <= _CLEAN_AROUND * contrast and values[own].std() <= _EVEN_INSIDE * contrast
    )


def _rows(boxes: NDArray[np.int64]) -> list[tuple[int, int, int, int, int]]:
    """Chain marks from left to right: next to each other, of like height, on one line."""
    height = boxes[:, 2] - boxes[:, 0]
    width = boxes[:, 3] - boxes[:, 1]
    fits = (height >= _HEIGHTS[0]) & (height <= _HEIGHTS[1]) & (width <= _WIDEST * height)
    boxes = boxes[fits]
    boxes = boxes[np.argsort(boxes[:, 1], kind="stable")]
    rows: list[list[NDArray[np.int64]]] = []
    for box in boxes:
        near = [row for row in rows if _follows(row[-1], box)]
        if near:
            max(near, key=len).append(box)
        else:
            rows.append([box])
    return [_bounds(row) for row in map(np.array, rows) if _is_text(row)]


def _follows(before: NDArray[np.int64], box: NDArray[np.int64]) -> bool:
    tall, small = sorted((before[2] - before[0], box[2] - box[0]), reverse=True)
    overlap = min(before[2], box[2]) - max(before[0], box[0])
    gap = box[1] - before[3]
    return bool(
        small * 2 >= tall and overlap * 3 >= small * 2 and -0.3 * tall <= gap <= _GAP * tall
    )


def _is_text(row: NDArray[np.int64]) -> bool:
    height, width = row[:, 2] - row[:, 0], row[:, 3] - row[:, 1]
    tall = np.median(height)
    # letters that touch one another make one wide mark
    letters = np.maximum(1, np.round(width / (0.8 * tall)))
    if len(row) < _LEAST_PIECES or letters.sum() < _LEAST_MARKS:
        return False
    if row[:, 3].max() - row[:, 1].min() < _LEAST_LENGTH * tall:
        return False
    feet = np.abs(row[:, 2] - np.median(row[:, 2]))
    heads = np.abs(row[:, 0] - np.median(row[:, 0]))
    level = min(np.median(feet), np.median(heads)) <= 0.15 * tall
    gaps = row[1:, 1] - row[:-1, 1]
    # a ruler or a dashed line: like marks at like distances
    ruler = len(row) > 4 and width.std() <= 0.6 and gaps.std() <= 0.8
    return bool(level and not ruler)


def _bounds(row: NDArray[np.int64]) -> tuple[int, int, int, int, int]:
    low, high = row.min(axis=0), row.max(axis=0)
    return int(low[0]), int(low[1]), int(high[2]), int(high[3]), len(row)
