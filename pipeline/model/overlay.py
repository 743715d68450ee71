"""Draws an evidence map over the picture that a reader knows, as a PNG.

Evidence for the class is drawn in warm colours, evidence against it in blue, nothing where the map
says nothing. Both scales share one zero and one unit, so that a faint map looks faint beside a
strong one of the same picture.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Region = tuple[int, int, int, int]

LONGEST_SIDE = 1024
"""Pixels of the overlay's longer side: readable on a screen, small enough for a JSON answer."""

OPACITY = 0.72
"""Of the strongest evidence; the picture stays visible below it."""

# black body towards white for, towards pale blue against: lightness rises evenly on both sides
_FOR = np.array([[120, 10, 20], [214, 40, 20], [250, 130, 20], [255, 205, 70], [255, 250, 205]])
_AGAINST = np.array(
    [[20, 40, 120], [35, 95, 190], [80, 155, 225], [150, 205, 245], [225, 242, 255]]
)


def overlay_png(
    picture: NDArray[np.uint8], evidence: NDArray[np.floating[Any]], region: Region, *, unit: float
) -> bytes:
    """Return a PNG of ``evidence`` [h, w] drawn over ``picture`` [H, W, 3].

    Parameters
    ----------
    picture
        The source picture, uint8 RGB.
    evidence
        Contributions to the logit.
    region
        Top, left, height, width of the map on the picture, in its pixels; may reach outside.
    unit
        The evidence that gets the strongest colour, > 0.
    """
    rows, columns = picture.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(rows, columns))
    small = Image.fromarray(picture).resize(
        (max(1, round(columns * scale)), max(1, round(rows * scale))), Image.Resampling.BOX
    )
    strength = _on_picture(evidence / unit, region, small.size, scale)
    colour = np.where(strength[..., None] >= 0, _ramp(_FOR, strength), _ramp(_AGAINST, -strength))
    # below a fifth of the unit the picture is left alone; a smooth foot avoids a hard edge
    weight = OPACITY * _smooth(np.clip((np.abs(strength) - 0.15) / 0.6, 0, 1))
    drawn = np.asarray(small) * (1 - weight[..., None]) + colour * weight[..., None]
    buffer = io.BytesIO()
    Image.fromarray(np.round(drawn).astype(np.uint8)).save(buffer, "PNG", optimize=False)
    return buffer.getvalue()


def _on_picture(
    values: NDArray[np.floating[Any]], region: Region, size: tuple[int, int], scale: float
) -> NDArray[np.float32]:
    """Return the map bilinearly enlarged to its region on a canvas of ``size`` (columns, rows)."""
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


def _ramp(colours: NDArray[np.integer[Any]], strength: NDArray[np.float32]) -> NDArray[np.float64]:
    place = np.linspace(0, 1, len(colours))
    level = np.clip(strength, 0, 1)
    return np.stack([np.interp(level, place, colours[:, channel]) for channel in range(3)], axis=-1)


def _smooth(share: NDArray[np.float32]) -> NDArray[np.float32]:
    return share * share * (3 - 2 * share)
