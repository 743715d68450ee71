"""Settles a window from an image's own values: percentiles that a marker, a frame or a speck can't move."""

import numpy as np

from data_schemas.contract import Grey
from pipeline.imaging.grey import modality_lut
from pipeline.imaging.instance import Instance

_ENOUGH = 1 << 20


def settled(instance: Instance, recipe: Grey | None = None) -> Grey:
    """Return a fixed window between two percentiles of an instance's values, for this image alone.

    Values that mean "no data" are left out. Of a large picture every few rows are counted. Where the
    two percentiles are the same value, the range of all values is taken.

    Parameters
    ----------
    recipe
        Says which percentiles; ``None``: the defaults.
    """
    recipe = recipe or Grey(window="percentile")
    facts, pixels = instance.grey, instance.pixels
    if facts is None:
        return Grey(window="range")
    step = max(1, pixels.size // _ENOUGH)
    values = pixels[::step].ravel().astype(np.float64)
    values = values[np.isfinite(values)]
    if facts.padding is not None:
        values = values[(values < facts.padding[0]) | (values > facts.padding[1])]
    if not values.size:
        return Grey(window="range")
    ends = np.percentile(values, (recipe.low, recipe.high), method="nearest")
    low, high = sorted(modality_lut(ends, facts).tolist())
    if not low < high:
        return Grey(window="range")
    # LINEAR reaches 0 and 1 half a value inside of its ends (PS3.3 C.11.2.1.2)
    return Grey(window="fixed", centre=(low + high) / 2 + 0.5, width=high - low + 1.0)
