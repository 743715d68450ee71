"""Finds the field of view of a fundus photograph: a bright disc on black, often cut off by the frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from data_schemas.errors import ImageError

_SEARCH_SIDE = 320
_LEAST_CONTRAST = 8.0
_RIM_SHARE = 0.18
_LEAST_POINTS = 32
_TRIALS = 300
_MOST_POINTS = 400
_LEAST_INLIERS = 0.35
_MOST_LIT_OUTSIDE = 0.15


@dataclass(frozen=True, slots=True)
class Field:
    """A circle in source pixels, and how much of its area is lit and inside the frame (0..1)."""

    row: float
    column: float
    radius: float
    visible: float


def find_field(pixels: NDArray[np.uint8]) -> Field:
    """Find the field of view.

    The threshold lies between the dark surround and the lit retina of this very picture; a circle
    is fitted to the edge of what is above it (consensus of many three-point circles, then least
    squares), leaving out edges that are the frame's own. So a field that is cut off at the top
    and bottom, or half dark, still gives its whole circle.

    Parameters
    ----------
    pixels
        uint8 [H, W, 3] or [H, W].

    Raises
    ------
    ImageError
        BLANK if the picture has no bright disc on a dark surround.
    """
    factor = max(1, max(pixels.shape[:2]) // _SEARCH_SIDE)
    factor -= factor % max(1, factor // 3)
    light = _light(pixels, factor)
    lit = _lit(light)
    edge = _edge_points(lit)
    if len(edge) < _LEAST_POINTS:
        raise ImageError("BLANK", "no field of view was found: no bright disc on a dark surround")
    circle = _circle(edge, max(light.shape))
    visible = _visible(lit, circle)
    row, column, radius = circle
    return Field(
        (row + 0.5) * factor - 0.5, (column + 0.5) * factor - 0.5, radius * factor, visible
    )


def black_outside(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blacken what lies outside the circle that touches the four sides of a square [S, S, ...]."""
    side = len(pixels)
    middle = (side - 1) / 2
    away = np.arange(side) - middle
    outside = away[:, None] ** 2 + away[None, :] ** 2 > (side / 2) ** 2
    kept = pixels.copy()
    kept[outside] = 0
    return kept


def _light(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.float32]:
    # the brightest channel: the retina is red where it is hardly green or blue. Of a large picture
    # every few pixels are enough for an edge; blocks of the rest are averaged against noise
    step = max(1, factor // 3)
    small = Image.fromarray(
        np.ascontiguousarray(pixels[step // 2 :: step, step // 2 :: step])
    ).reduce(factor // step)
    red, *others = small.split()
    for other in others:
        red = ImageChops.lighter(red, other)
    return np.asarray(red).astype(np.float32)


def _lit(light: NDArray[np.float32]) -> NDArray[np.bool_]:
    dark, bright = np.percentile(light[::2, ::2], (1.0, 90.0))
    if bright - dark < _LEAST_CONTRAST:
        raise ImageError(
            "BLANK", "no field of view was found: the picture is dark or even all over"
        )
    threshold = float(dark + max(_RIM_SHARE * (bright - dark), _LEAST_CONTRAST / 2))
    return light > threshold


def _edge_points(lit: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return (row, column) of the outermost lit pixels of every row and column, not on the frame."""
    points = []
    for across, grid in ((False, lit), (True, lit.T)):
        length = grid.shape[1]
        lines = np.flatnonzero(grid.any(axis=1))
        first = grid[lines].argmax(axis=1)
        last = length - 1 - grid[lines, ::-1].argmax(axis=1)
        for ends, shift in ((first, -0.5), (last, 0.5)):
            inner = (ends > 1) & (ends < length - 2)
            pair = (lines[inner].astype(float), ends[inner] + shift)
            points.append(np.stack(pair[::-1] if across else pair, axis=1))
    return np.concatenate(points)


def _circle(edge: NDArray[np.float64], longest: int) -> tuple[float, float, float]:
    # consensus (Fischler and Bolles 1981) with a fixed seed: the same picture, the same circle
    every = edge
    edge = edge[:: max(1, len(edge) // _MOST_POINTS)]
    draws = np.random.default_rng(0).integers(0, len(edge), (_TRIALS, 3))
    rows, columns, radii = _through(edge[draws])
    plausible = np.isfinite(radii) & (radii > 0.15 * longest) & (radii < 1.0 * longest)
    tolerance = max(1.5, 0.006 * longest)
    distance = np.hypot(edge[:, 0] - rows[:, None], edge[:, 1] - columns[:, None])
    near = np.abs(distance - radii[:, None]) < tolerance
    votes = np.where(plausible, near.sum(axis=1), -1)
    best = int(votes.argmax())
    if votes[best] < max(_LEAST_POINTS // 2, _LEAST_INLIERS * len(edge)):
        raise ImageError("BLANK", "no field of view was found: the bright part is not round")
    off = np.hypot(every[:, 0] - rows[best], every[:, 1] - columns[best]) - radii[best]
    return _least_squares(every[np.abs(off) < tolerance])


def _through(
    corners: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return centre row, centre column and radius of the circles through three points each."""
    (ay, ax), (by, bx), (cy, cx) = (corners[:, k].T for k in range(3))
    double = 2 * (ax * (by - cy) + bx * (cy - ay) + cx * (ay - by))
    a, b, c = ax**2 + ay**2, bx**2 + by**2, cx**2 + cy**2
    with np.errstate(divide="ignore", invalid="ignore"):
        column = (a * (by - cy) + b * (cy - ay) + c * (ay - by)) / double
        row = (a * (cx - bx) + b * (ax - cx) + c * (bx - ax)) / double
        radius = np.hypot(ax - column, ay - row)
    good = np.isfinite(radius)
    return np.where(good, row, 0), np.where(good, column, 0), np.where(good, radius, np.inf)


def _least_squares(points: NDArray[np.float64]) -> tuple[float, float, float]:
    # the algebraic fit of Kasa (1976): linear, and exact enough on a long clean arc
    y, x = points.T
    design = np.stack([x, y, np.ones(len(x))], axis=1)
    a, b, c = np.linalg.lstsq(design, x**2 + y**2, rcond=None)[0]
    return float(b / 2), float(a / 2), float(np.sqrt(max(c + (a**2 + b**2) / 4, 0.0)))


def _visible(lit: NDArray[np.bool_], circle: tuple[float, float, float]) -> float:
    row, column, radius = circle
    rows, columns = np.ogrid[: lit.shape[0], : lit.shape[1]]
    away = np.hypot(rows - row, columns - column)
    outside = lit & (away > 1.05 * radius)
    if outside.sum() > _MOST_LIT_OUTSIDE * lit.sum():
        raise ImageError("BLANK", "no field of view was found: the surround is not dark")
    return float(min(1.0, (lit & (away <= radius)).sum() / (np.pi * radius**2)))
