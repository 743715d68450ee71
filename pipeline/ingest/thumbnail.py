"""A prepared picture made small, so that a person can see what was refused."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.imaging.resize import resize

SIDE = 96
"""Longest side, pixels."""


def thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """Return ``pixels``, uint8 [size, size, channels], as a small JPEG without any metadata."""
    side = min(SIDE, pixels.shape[0])
    flat = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    small = flat if side == pixels.shape[0] else resize(np.ascontiguousarray(flat), side)
    stream = io.BytesIO()
    Image.fromarray(small).save(stream, "JPEG", quality=80)
    return stream.getvalue()
