"""Draws an evidence map over the picture that a reader knows, as a PNG.

The picture turns grey, so that every colour is evidence: on an orange fundus a warm spot would pass
for an exudate. Evidence for the class is drawn from red to pale yellow, evidence against it in blue,
with the picture's own light and dark kept below it. A line surrounds what reaches half the unit.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Region = tuple[int, int, int, int]

LONGEST_SIDE = 1024
"""Pixels of the overlay's longer side: readable on a screen, small enough for a JSON answer."""

LEAST_SIDE = 512
"""Smaller pictures are enlarged up to this: nobody can read a map of 28 pixels."""

OPACITY = 0.8
"""Of the strongest evidence."""

FAINTEST = 0.15
"""Share of the unit below which nothing is drawn."""

HALF = 0.5
"""Share of the unit at which the line is drawn."""

# red to yellow for, navy to light blue against, never to white: the sign must show at the peak: lightness rises evenly on both sides
_FOR = np.array([[120, 10, 20], [205, 35, 20], [240, 100, 20], [250, 165, 35], [255, 228, 95]])
_AGAINST = np.array([[15, 35, 120], [25, 75, 175], [45, 120, 215], [80, 165, 240], [130, 205, 255]])


def overlay_png(
    picture: NDArray[np.uint8],
    evidence: NDArray[np.floating[Any]],
    region: Region,
    *,
    unit: float,
    longest: int = 0,
) -> bytes:
    """Return :func:`overlay_pixels` as a PNG."""
    buffer = io.BytesIO()
    drawn = overlay_pixels(picture, evidence, region, unit=unit, longest=longest)
    Image.fromarray(drawn).save(buffer, "PNG", optimize=False)
    return buffer.getvalue()


def reduced(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return ``picture`` [H, W, 3] no larger than an overlay of it: what else of it nobody sees."""
    rows, columns = picture.shape[:2]
    longest = max(rows, columns)
    if longest <= LONGEST_SIDE:
        return picture
    size = [max(1, round(side * (LONGEST_SIDE / longest))) for side in (columns, rows)]
    return np.asarray(Image.fromarray(picture).resize((size[0], size[1]), Image.Resampling.BOX))


def overlay_pixels(
    picture: NDArray[np.uint8],
    evidence: NDArray[np.floating[Any]],
    region: Region,
    *,
    unit: float,
    longest: int = 0,
) -> NDArray[np.uint8]:
    """Return ``evidence`` [h, w] drawn over ``picture`` [H, W, 3], as RGB.

    Parameters
    ----------
    picture
        The source picture, uint8 RGB, in full or :func:`reduced`.
    evidence
        Contributions to the logit.
    region
        Top, left, height, width of the map on the picture in full, in its pixels; may reach outside.
    unit
        The evidence that gets the strongest colour, > 0.
    longest
        Longer side of the picture in full; 0: it is.
    """
    longest = longest or max(picture.shape[:2])
    picture = reduced(picture)
    rows, columns = picture.shape[:2]
    # whole multiples keep the pixels of a small picture square and sharp
    times = max(1, LEAST_SIDE // max(rows, columns))
    size = (columns * times, rows * times)
    small = Image.fromarray(picture).resize(size, Image.Resampling.NEAREST)
    scale = max(rows, columns) * times / longest
    strength = _on_picture(evidence / unit, region, small.size, scale)
    light = np.asarray(small.convert("L"), dtype=np.float32)[..., None]
    colour = np.where(strength[..., None] >= 0, _ramp(_FOR, strength), _ramp(_AGAINST, -strength))
    # colour shaded by the picture: a vessel or a lesion is seen through it
    shaded = colour * (0.5 + 0.5 * light / max(float(light.max()), 1.0))
    # a smooth foot, so that no edge is drawn where nothing begins
    weight = OPACITY * _smooth(np.clip((np.abs(strength) - FAINTEST) / 0.35, 0, 1))[..., None]
    drawn = light * (1 - weight) + shaded * weight
    drawn[_outline(strength >= HALF)] = (255, 255, 255)
    drawn[_outline(strength <= -HALF)] = (170, 215, 255)
    return np.asarray(np.round(drawn), np.uint8)


def _on_picture(
    values: NDArray[np.floating[Any]], region: Region, size: tuple[int, int], scale: float
) -> NDArray[np.float32]:
    """Return the map smoothly enlarged to its region on a canvas of ``size`` (columns, rows)."""
    top, left, height, width = (round(value * scale) for value in region)
    large = np.asarray(
        Image.fromarray(values.astype(np.float32)).resize(
            (max(1, width), max(1, height)), Image.Resampling.BICUBIC
        )
    )
    canvas = np.zeros((size[1], size[0]), np.float32)
    inside = canvas[max(top, 0) : top + height, max(left, 0) : left + width]
    inside[:] = large[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]]
    return canvas


def _outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of ``inside`` that touch its outside."""
    # beyond the frame the shape goes on: no line along the picture's edge
    wide = np.pad(inside, 1, mode="edge")
    core = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return inside & ~core


def _ramp(colours: NDArray[np.integer[Any]], strength: NDArray[np.float32]) -> NDArray[np.float64]:
    place = np.linspace(0, 1, len(colours))
    level = np.clip(strength, 0, 1)
    return np.stack([np.interp(level, place, colours[:, channel]) for channel in range(3)], axis=-1)


def _smooth(share: NDArray[np.float32]) -> NDArray[np.float32]:
    return share * share * (3 - 2 * share)
