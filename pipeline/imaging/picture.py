"""A picture for a reader's eyes: the header's own window is allowed here, unlike in what a network sees."""

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Grey
from data_schemas.errors import ImageError
from pipeline.imaging.colour import display_levels, with_channels
from pipeline.imaging.instance import Instance


def picture(instance: Instance) -> NDArray[np.uint8]:
    """Return uint8 RGB [H, W, 3], in the source's own size; black if there is nothing to show."""
    try:
        levels = display_levels(instance, Grey(window="header"))
    except ImageError:  # no window, and one value all over
        levels = np.zeros((instance.rows, instance.columns), np.uint8)
    return with_channels(levels, 3)
