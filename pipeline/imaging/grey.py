"""Stored grey values to 0..255: modality LUT, then the recipe or VOI window, then MONOCHROME1, in this order."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Grey
from data_schemas.errors import ImageError
from pipeline.imaging.instance import GreyFacts, Lut, Window

_TABLE_LIMIT = 1 << 17


def grey_levels(pixels: NDArray[Any], facts: GreyFacts, recipe: Grey) -> NDArray[np.uint8]:
    """Return uint8 [H, W]; pixels that hold no data (padding, NaN) become black.

    Integers of up to 17 bits go through one table made from all steps, which is exact and needs
    no floating-point picture.

    Raises
    ------
    ImageError
        BLANK if the recipe is a range and all values are equal.
    """
    if pixels.dtype.kind in "iu":
        low, high = int(pixels.min()), int(pixels.max())
        if high - low < _TABLE_LIMIT:
            stored = np.arange(low, high + 1, dtype=np.float64)
            places = pixels.astype(np.int64) - low if low else pixels
            present = np.zeros(len(stored), bool)
            present[places] = True
            return _levels(stored, present, facts, recipe)[places]
    stored = pixels.astype(np.float64)
    return _levels(stored, np.ones(stored.shape, bool), facts, recipe)


def _levels(
    stored: NDArray[np.float64], present: NDArray[np.bool_], facts: GreyFacts, recipe: Grey
) -> NDArray[np.uint8]:
    valid = np.isfinite(stored)
    if facts.padding is not None:  # compared with stored values, before any rescale
        valid &= (stored < facts.padding[0]) | (stored > facts.padding[1])
    values = modality_lut(np.where(valid, stored, 0.0), facts)
    shown = _shown(values, valid & present, facts, recipe)
    if facts.inverted:
        shown = 1.0 - shown
    return np.where(valid, np.floor(shown * 255.0 + 0.5), 0.0).astype(np.uint8)


def modality_lut(stored: NDArray[np.float64], facts: GreyFacts) -> NDArray[np.float64]:
    """Apply the Modality LUT, or slope and intercept without one (PS3.3 C.11.1)."""
    if facts.modality_lut is not None:
        return _looked_up(stored, facts.modality_lut)
    return stored * facts.slope + facts.intercept


def voi_window(values: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
    """Apply a VOI window (PS3.3 C.11.2.1.2 and C.11.2.1.3), giving 0..1."""
    centre, width = window.centre, window.width
    if window.function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700, 700)))
    if window.function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0.0, 1.0)
    if width == 1.0:  # the formula's limit: a threshold
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)


def usable(window: Window) -> bool:
    """Tell whether a header's window has a width that its function allows."""
    if not (math.isfinite(window.centre) and math.isfinite(window.width)):
        return False
    return window.width >= 1.0 if window.function == "LINEAR" else window.width > 0.0


def _shown(
    values: NDArray[np.float64], counted: NDArray[np.bool_], facts: GreyFacts, recipe: Grey
) -> NDArray[np.float64]:
    if recipe.window == "fixed" and recipe.centre is not None and recipe.width is not None:
        return voi_window(values, Window(recipe.centre, recipe.width, _exact_below_one(recipe)))
    if recipe.window == "header":
        if facts.voi_lut is not None:
            return _looked_up(values, facts.voi_lut) / facts.voi_lut.top
        if facts.window is not None:
            return voi_window(values, facts.window)
    return _range(values, counted)


def _exact_below_one(recipe: Grey) -> Any:
    # LINEAR isn't defined below a width of 1, which values such as 0..1 need
    return "LINEAR" if recipe.width is not None and recipe.width >= 1.0 else "LINEAR_EXACT"


def _range(values: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not counted.any():
        raise ImageError("BLANK", "no pixel holds a value")
    low, high = float(values[counted].min()), float(values[counted].max())
    if low == high:
        raise ImageError("BLANK", "every pixel has the same value")
    scaled: NDArray[np.float64] = np.clip((values - low) / (high - low), 0.0, 1.0)
    return scaled


def _looked_up(values: NDArray[np.float64], table: Lut) -> NDArray[np.float64]:
    places = np.clip(np.rint(values) - table.first, 0, len(table.entries) - 1)
    found: NDArray[np.float64] = table.entries[places.astype(np.int64)]
    return found
