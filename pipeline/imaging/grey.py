"""Stored grey values to 0..255: modality LUT, then the recipe or VOI window, then MONOCHROME1, in this order."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Grey
from data_schemas.errors import ImageError
from pipeline.imaging.instance import GreyFacts, Lut, VoiFunction, Window

_TABLE_LIMIT = 1 << 17
_PIXELS_AT_ONCE = 1 << 15
"""Keeps a block of rows in the cache."""
_SINGLE = 1 << 15
_LARGE = 1e12


def grey_levels(pixels: NDArray[Any], facts: GreyFacts, recipe: Grey) -> NDArray[np.uint8]:
    """Return uint8 [H, W]; pixels that hold no data (padding, NaN) become black.

    A linear recipe is computed pixel by pixel. Other recipes go, for integers of up to 17 bits, through
    one table made from all steps, which needs no floating-point picture.

    Raises
    ------
    ImageError
        BLANK if the recipe is a range and all values are equal.
    """
    if _is_line(pixels, facts, recipe):
        return _on_line(pixels, facts, recipe)
    if pixels.dtype.kind in "iu":
        low, high = int(pixels.min()), int(pixels.max())
        if high - low < _TABLE_LIMIT:
            stored = np.arange(low, high + 1, dtype=np.float64)
            places = from_zero(pixels, low)
            counted = _counted(places, len(stored), facts)
            return _levels(stored, counted, facts, recipe).take(places)
    stored = pixels.astype(np.float64)
    return _levels(stored, slice(None), facts, recipe)


def is_linear(pixels: NDArray[Any], facts: GreyFacts, recipe: Grey) -> bool:
    """Tell whether the mean of some pixels' levels is the level of their mean.

    It is for a rescale by slope and intercept and a window, but where the window clips; it is not for
    look-up tables, a sigmoid, or padding, whose values mean something else.
    """
    return facts.padding is None and _is_line(pixels, facts, recipe)


def _is_line(pixels: NDArray[Any], facts: GreyFacts, recipe: Grey) -> bool:
    if pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > 4 or facts.modality_lut is not None:
        return False
    sizes = [facts.slope, 1.0 / facts.slope, facts.intercept]
    window = _window_of(facts, recipe)
    if window is None:
        straight = recipe.window != "header" or facts.voi_lut is None
    else:
        threshold = window.function == "LINEAR" and window.width == 1
        straight = window.function != "SIGMOID" and not threshold
        sizes += [window.centre, window.width, 1.0 / window.width]
    # numbers of a hostile header may overflow on the way
    return straight and all(abs(size) < _LARGE for size in sizes)


def linear_levels(
    means: NDArray[np.floating], limits: tuple[int, int], facts: GreyFacts, recipe: Grey
) -> NDArray[np.uint8]:
    """Turn means of stored values into levels, for a recipe that :func:`is_linear`.

    Parameters
    ----------
    means
        float32 or float64 [h, w]; overwritten.
    limits
        Lowest and highest stored value of the whole picture, for the recipe ``range``.

    Raises
    ------
    ImageError
        BLANK if the recipe is a range and all values are equal.
    """
    line = _line(limits, facts, recipe)
    return _placed(means.astype(_kind_for(means.dtype, line), copy=False), line).astype(np.uint8)


def _on_line(pixels: NDArray[Any], facts: GreyFacts, recipe: Grey) -> NDArray[np.uint8]:
    held = None
    if facts.padding is not None:  # compared with stored values, before any rescale
        held = (pixels < facts.padding[0]) | (pixels > facts.padding[1])
    line = _line(_limits(pixels, held), facts, recipe)
    kind = _kind_for(pixels.dtype, line)
    levels = np.empty(pixels.shape, np.uint8)
    at_once = max(1, _PIXELS_AT_ONCE // pixels.shape[1])
    for first in range(0, len(pixels), at_once):
        block = slice(first, first + at_once)
        levels[block] = _placed(pixels[block].astype(kind), line)
    if held is not None:
        levels *= held
    return levels


def _kind_for(stored: np.dtype[Any], line: tuple[float, float]) -> type[np.floating]:
    # single precision holds values of 16 bits; what is subtracted must not cost the last ones
    small = stored.kind == "f" or stored.itemsize <= 2
    single = stored != np.float64 and small and abs(line[0] * line[1]) < _SINGLE
    return np.float32 if single else np.float64


def _placed(values: NDArray[np.floating], line: tuple[float, float]) -> NDArray[np.floating]:
    """Turn stored values into levels, in place; the fraction is still to be cut off (half up)."""
    kind = values.dtype.type
    values -= kind(line[0])
    values *= kind(line[1])
    values += kind(0.5)
    return np.clip(values, kind(0.0), kind(255.5), out=values)


def _limits(pixels: NDArray[Any], held: NDArray[np.bool_] | None) -> tuple[int, int]:
    """Return the lowest and the highest value where ``held``; everywhere without it."""
    low, high = int(pixels.min()), int(pixels.max())
    if held is None:
        return low, high
    if not held.any():
        raise ImageError("BLANK", "no pixel holds a value")
    return int(np.where(held, pixels, high).min()), int(np.where(held, pixels, low).max())


def _line(limits: tuple[int, int], facts: GreyFacts, recipe: Grey) -> tuple[float, float]:
    """Return the stored value that becomes black, and levels per stored value; negative if inverted."""
    window = _window_of(facts, recipe)
    if window is None:
        start, end = _low_high(modality_lut(np.array(limits, np.float64), facts))
    elif window.function == "LINEAR":
        start = window.centre - 0.5 - (window.width - 1) / 2
        end = start + window.width - 1
    else:
        start, end = window.centre - window.width / 2, window.centre + window.width / 2
    gain = 255.0 * facts.slope / (end - start)
    if facts.inverted:
        return (end - facts.intercept) / facts.slope, -gain
    return (start - facts.intercept) / facts.slope, gain


def from_zero(pixels: NDArray[Any], low: int) -> NDArray[Any]:
    """Return ``pixels - low`` in the smallest type: sixteen bits hold every difference of 16-bit values."""
    if low == 0:
        return pixels
    if pixels.dtype.itemsize <= 2:
        kind = np.dtype(f"u{pixels.dtype.itemsize}")
        moved: NDArray[Any] = pixels.view(kind) - kind.type(low % (1 << (8 * kind.itemsize)))
        return moved
    return pixels.astype(np.int64) - low


def _counted(places: NDArray[Any], count: int, facts: GreyFacts) -> slice | NDArray[np.bool_]:
    """Return which of ``count`` table entries a range counts: those that occur.

    Of a monotone rescale without padding the first and the last are enough.
    """
    if facts.modality_lut is None and facts.padding is None:
        return slice(None, None, max(1, count - 1))
    present = np.zeros(count, bool)
    present[places] = True
    return present


def _levels(
    stored: NDArray[np.float64],
    counted: NDArray[np.bool_] | slice,
    facts: GreyFacts,
    recipe: Grey,
) -> NDArray[np.uint8]:
    # ``counted``: the values that a range is taken of
    invalid = ~np.isfinite(stored)
    if facts.padding is not None:  # compared with stored values, before any rescale
        invalid |= (stored >= facts.padding[0]) & (stored <= facts.padding[1])
    holes = bool(invalid.any())
    values = modality_lut(np.where(invalid, 0.0, stored) if holes else stored, facts)
    if not holes:
        seen = values[counted]
    elif isinstance(counted, slice):
        seen = values[~invalid]
    else:
        seen = values[~invalid & counted]
    shown = _shown(values, seen, facts, recipe)
    if facts.inverted:
        shown = 1.0 - shown
    shown *= 255.0
    shown += 0.5  # half up: what follows cuts the fraction off
    levels = shown.astype(np.uint8)
    if holes:
        levels[invalid] = 0
    return levels


def modality_lut(stored: NDArray[np.float64], facts: GreyFacts) -> NDArray[np.float64]:
    """Apply the Modality LUT, or slope and intercept without one (PS3.3 C.11.1)."""
    if facts.modality_lut is not None:
        return _looked_up(stored, facts.modality_lut)
    if facts.slope == 1.0 and facts.intercept == 0.0:
        return stored
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
    values: NDArray[np.float64], seen: NDArray[np.float64], facts: GreyFacts, recipe: Grey
) -> NDArray[np.float64]:
    if recipe.window == "header" and facts.voi_lut is not None:
        return _looked_up(values, facts.voi_lut) / facts.voi_lut.top
    window = _window_of(facts, recipe)
    if window is not None:
        return voi_window(values, window)
    low, high = _low_high(seen)
    scaled: NDArray[np.float64] = values - low
    scaled /= high - low
    return np.clip(scaled, 0.0, 1.0, out=scaled)


def _window_of(facts: GreyFacts, recipe: Grey) -> Window | None:
    """Return the window that a recipe uses; ``None`` for a VOI LUT or the range of values."""
    if recipe.window == "fixed" and recipe.centre is not None and recipe.width is not None:
        # LINEAR isn't defined below a width of 1, which values such as 0..1 need
        function: VoiFunction = "LINEAR" if recipe.width >= 1.0 else "LINEAR_EXACT"
        return Window(recipe.centre, recipe.width, function)
    return facts.window if recipe.window == "header" and facts.voi_lut is None else None


def _low_high(seen: NDArray[np.float64]) -> tuple[float, float]:
    if not seen.size:
        raise ImageError("BLANK", "no pixel holds a value")
    low, high = float(seen.min()), float(seen.max())
    if low == high:
        raise ImageError("BLANK", "every pixel has the same value")
    return low, high


def _looked_up(values: NDArray[np.float64], table: Lut) -> NDArray[np.float64]:
    places = np.clip(np.rint(values) - table.first, 0, len(table.entries) - 1)
    found: NDArray[np.float64] = table.entries[places.astype(np.int64)]
    return found
