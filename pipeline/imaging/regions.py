"""Finds what a radiograph or mammogram shows: the exposed part of the detector, or the breast.

Both are looked for before grey values are windowed, so that a white frame or a lead marker doesn't
decide the contrast of the patient. When nothing clear is found, everything is kept.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Contract
from pipeline.imaging.grey import grey_levels
from pipeline.imaging.instance import Instance, Stored
from pipeline.imaging.resize import Region
from pipeline.imaging.windows import settled

_SEARCH_SIDE = 320
_PLAIN = 20.0
"""Spread (5th to 95th percentile, grey levels) up to which a line of unexposed detector is even."""
_BRIGHT, _BLACK = 170.0, 3.0
_EDGE, _EDGE_SHARE, _EDGE_WIDTH = 20.0, 0.6, 0.05
_MOST_CUT, _LEAST_KEPT = 0.48, 0.2
_LEAST_BREAST = 0.05
_MARGIN = 0.02


@dataclass(frozen=True, slots=True)
class Focus:
    """The part of an instance that the contract asks for, and the contract with its window settled."""

    instance: Instance
    contract: Contract
    top: int
    left: int

    def in_source(self, region: Region) -> Region:
        """Return a region of the part in pixels of the source."""
        return region[0] + self.top, region[1] + self.left, region[2], region[3]


def focus(instance: Instance, contract: Contract) -> Focus:
    """Cut an instance to its collimated field or its breast, and settle a window by percentiles.

    Raises
    ------
    ImageError
        BLANK if no pixel holds a value.
    """
    region: Region = (0, 0, instance.rows, instance.columns)
    if contract.region in ("collimation", "breast"):
        region, warnings = find(instance, contract.region)
        top, left, height, width = region
        part = instance.pixels[top : top + height, left : left + width]
        instance = replace(
            instance,
            stored=Stored(np.ascontiguousarray(part)),
            rows=height,
            columns=width,
            warnings=(*instance.warnings, *warnings),
        )
        contract = contract.model_copy(update={"region": "whole"})
    if contract.grey.window == "percentile":
        contract = contract.model_copy(update={"grey": settled(instance, contract.grey)})
    return Focus(instance, contract, region[0], region[1])


def find(instance: Instance, kind: str) -> tuple[Region, tuple[str, ...]]:
    """Return the region of a kind (collimation or breast) in source pixels, and what is odd about it."""
    levels, step = _rough(instance)
    exposed = exposed_part(levels)
    warnings: tuple[str, ...] = ()
    if kind == "breast":
        top, left, height, width = exposed
        found, side = breast_part(levels[top : top + height, left : left + width])
        exposed = (found[0] + top, found[1] + left, found[2], found[3])
        # by the usual hanging, a left breast's chest wall is on the picture's left
        if {"L": "right", "R": "left"}.get(instance.laterality) == side:
            warnings = (f"laterality {instance.laterality}, but the chest wall is on the {side}",)
    top, left, height, width = (value * step for value in exposed)
    whole = exposed[2:] == levels.shape
    bottom = instance.rows if exposed[0] + exposed[2] == levels.shape[0] else top + height
    right = instance.columns if exposed[1] + exposed[3] == levels.shape[1] else left + width
    if whole:
        return (0, 0, instance.rows, instance.columns), warnings
    return (top, left, bottom - top, right - left), warnings


def exposed_part(levels: NDArray[np.float32]) -> Region:
    """Return the collimated field as (top, left, height, width).

    A line at the rim is outside the field if it is even and bright (a shutter casts a shadow, which
    a radiograph shows white) and ends at a straight edge, or if nothing of it is brighter than black.

    Parameters
    ----------
    levels
        float32 [H, W], 0..255, bright where much was absorbed.
    """
    rows, columns = levels.shape
    top, bottom, left, right = 0, rows, 0, columns
    for _ in range(2):  # what is even may appear so only without its ends
        inner = levels[top:bottom]
        left = max(left, _shadow(inner.T, columns))
        right = min(right, columns - _shadow(inner.T[::-1], columns))
        if right - left < _LEAST_KEPT * columns:
            left, right = 0, columns
        inner = levels[:, left:right]
        top = max(top, _shadow(inner, rows))
        bottom = min(bottom, rows - _shadow(inner[::-1], rows))
        if bottom - top < _LEAST_KEPT * rows:
            top, bottom = 0, rows
    return top, left, bottom - top, right - left


def breast_part(levels: NDArray[np.float32]) -> tuple[Region, str]:
    """Return the box around the breast, and the side of the picture on which the chest wall is.

    The breast is the largest connected bright area; labels and markers are smaller ones.

    Parameters
    ----------
    levels
        float32 [H, W], 0..255, without the frame.
    """
    rows, columns = levels.shape
    whole = (0, 0, rows, columns)
    dark, light = np.percentile(levels, (2.0, 98.0))
    area = largest_area(levels > dark + 0.08 * (light - dark))
    if area.sum() < _LEAST_BREAST * area.size:
        return whole, ""
    down, across = np.flatnonzero(area.any(axis=1)), np.flatnonzero(area.any(axis=0))
    top, bottom = max(0, down[0] - _margin(rows)), min(rows, down[-1] + 1 + _margin(rows))
    left, right = max(0, across[0] - _margin(columns)), min(columns, across[-1] + 1 + _margin(columns))  # fmt: skip
    touching = {
        "left": area[:, 0].mean(),
        "right": area[:, -1].mean(),
        "top": area[0].mean(),
        "bottom": area[-1].mean(),
    }
    side = max(touching, key=lambda name: touching[name])
    others = sorted(touching.values())
    clear = others[-1] > 0.3 and others[-1] > 1.5 * others[-2]
    return (int(top), int(left), int(bottom - top), int(right - left)), side if clear else ""


def largest_area(lit: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest 4-connected area of a mask."""
    runs = [run for row, line in enumerate(lit) for run in _runs(row, line)]
    names = _joined(runs)
    sizes: dict[int, int] = {}
    for name, (_, start, stop) in zip(names, runs, strict=True):
        sizes[name] = sizes.get(name, 0) + stop - start
    area = np.zeros_like(lit)
    best = max(sizes, key=lambda name: sizes[name], default=-1)
    for name, (row, start, stop) in zip(names, runs, strict=True):
        if name == best:
            area[row, start:stop] = True
    return area


def _runs(row: int, line: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], line.view(np.int8), [0]))))
    return [(row, start, stop) for start, stop in edges.reshape(-1, 2).tolist()]


def _joined(runs: list[tuple[int, int, int]]) -> list[int]:
    """Return one name for all runs that touch, row by row (union by the lowest name)."""
    parents = list(range(len(runs)))

    def root(name: int) -> int:
        while parents[name] != name:
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    first = 0  # of the row before, the first run that may still touch
    for here, (row, start, stop) in enumerate(runs):
        while runs[first][0] < row - 1 or (runs[first][0] == row - 1 and runs[first][2] <= start):
            first += 1
        other = first
        while runs[other][0] == row - 1 and runs[other][1] < stop:
            one, two = sorted((root(here), root(other)))
            parents[two] = one
            other += 1
    return [root(name) for name in range(len(runs))]


def _margin(side: int) -> int:
    return max(1, round(_MARGIN * side))


def _shadow(lines: NDArray[np.float32], side: int) -> int:
    """Return how many lines from the first on lie outside the field."""
    if min(lines.shape) < 16:
        return 0
    low, middle, high = np.percentile(lines, (5.0, 50.0, 95.0), axis=1)
    black = np.percentile(lines, 99.5, axis=1) <= _BLACK
    even = (high - low <= _PLAIN) & (middle >= _BRIGHT)
    dark = int(black.argmin())
    bright = int(even.argmin())
    if even.all() or black.all():
        return 0
    if dark:
        return max(0, dark - 1) if dark <= _MOST_CUT * side else 0
    if not 2 <= bright <= _MOST_CUT * side:
        return 0
    # a straight edge: most of the line darkens within a few lines; scatter fades more slowly
    near = lines[bright : bright + max(3, round(_EDGE_WIDTH * side))]
    fallen = (lines[bright - 1] - near >= _EDGE).mean(axis=1) >= _EDGE_SHARE
    return bright - 1 + int(fallen.argmax()) if fallen.any() else 0


def _rough(instance: Instance) -> tuple[NDArray[np.float32], int]:
    """Return a small copy of the picture, 0..255 between its own percentiles, and how many times smaller."""
    pixels = instance.pixels
    step = max(1, max(pixels.shape[:2]) // _SEARCH_SIDE)
    rows, columns = (max(1, side // step) for side in pixels.shape[:2])
    # the middle of each block stands for it: enough for edges
    half = step // 2
    small = np.ascontiguousarray(pixels[half::step, half::step][:rows, :columns])
    if instance.grey is not None:
        facts = instance.grey
        levels = grey_levels(small, facts, settled(replace(instance, stored=Stored(small))))
    else:
        levels = (small >> (8 * (small.dtype.itemsize - 1))).astype(np.uint8).max(axis=2)
    return levels.astype(np.float32), step
