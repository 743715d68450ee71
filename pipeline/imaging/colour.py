"""Colour of every kind to RGB: YCbCr, palette, CMYK; and an instance to 0..255."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_schemas.contract import Grey
from pipeline.imaging.grey import from_zero, grey_levels
from pipeline.imaging.instance import Instance

# ITU-T T.871 (JFIF), full range, after Rec. 601
_CR_TO_R = 1.402
_CB_TO_G = -0.114 * 1.772 / 0.587
_CR_TO_G = -0.299 * 1.402 / 0.587
_CB_TO_B = 1.772
_CHROMA = np.arange(256, dtype=np.float32) - np.float32(128)
_RED = np.floor(np.float32(_CR_TO_R) * _CHROMA + np.float32(0.5)).astype(np.int16)
_BLUE = np.floor(np.float32(_CB_TO_B) * _CHROMA + np.float32(0.5)).astype(np.int16)
_GREEN_CB = np.float32(_CB_TO_G) * _CHROMA
_GREEN_CR = np.float32(_CR_TO_G) * _CHROMA
_PIXELS_AT_ONCE = 1 << 15
_REC601 = np.array([0.299, 0.587, 0.114], np.float32)


def display_levels(instance: Instance, recipe: Grey, divisor: int = 1) -> NDArray[np.uint8]:
    """Return the instance as uint8: grey [H, W] by the contract's recipe, or RGB [H, W, 3].

    ``divisor``: one of ``instance.stored.divisors``, by which the sides are shorter.
    """
    pixels = instance.stored.at(divisor)
    if instance.grey is not None:
        return grey_levels(pixels, instance.grey, recipe)
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    return pixels.astype(np.uint8, copy=False)


def with_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Return [H, W, channels]: grey repeated to three, or colour as Rec. 601 luma."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] == channels:
        return np.ascontiguousarray(pixels)
    if channels == 3:
        grey = Image.fromarray(pixels[..., 0])
        return np.asarray(Image.merge("RGB", (grey, grey, grey)))
    luma = pixels.astype(np.float32) @ _REC601
    return np.ascontiguousarray((luma + 0.5).astype(np.uint8)[..., None])


def ybr_full_to_rgb(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert YBR_FULL [H, W, 3], 8 bit, to RGB (PS3.3 C.7.6.3.1.2), half up."""
    out = np.empty(pixels.shape, np.uint8)
    at_once = max(1, _PIXELS_AT_ONCE // max(1, pixels.shape[1]))
    for first in range(0, len(pixels), at_once):
        y, cb, cr = np.moveaxis(pixels[first : first + at_once], -1, 0)
        block, luma = out[first : first + at_once], y.astype(np.int16)
        block[..., 0] = np.clip(luma + _RED.take(cr), 0, 255)
        # two parts, whose sum is rounded once
        green = y.astype(np.float32) + _GREEN_CB.take(cb) + _GREEN_CR.take(cr)
        block[..., 1] = np.clip(green + np.float32(0.5), 0, 255)
        block[..., 2] = np.clip(luma + _BLUE.take(cb), 0, 255)
    return out


def unpack_ybr_422(values: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Unpack YBR_FULL_422 (Y Y Cb Cr for two pixels) to YBR [rows, columns, 3]."""
    pairs = values.reshape(rows, columns // 2, 4)
    out = np.empty((rows, columns // 2, 2, 3), np.uint8)
    for pixel in (0, 1):  # one byte at a time: numpy is slow on axes of two
        out[..., pixel, 0] = pairs[..., pixel]
        out[..., pixel, 1] = pairs[..., 2]
        out[..., pixel, 2] = pairs[..., 3]
    return out.reshape(rows, columns, 3)


def apply_palette(
    indices: NDArray[Any], first: int, colours: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Look stored values up in a palette; values before and after it take its ends."""
    low, high = int(indices.min()), int(indices.max())
    places = np.clip(np.arange(low, high + 1) - first, 0, len(colours) - 1)
    return colours[places].take(from_zero(indices, low), axis=0)


def cmyk_to_rgb(pixels: NDArray[np.uint8], *, inverted: bool) -> NDArray[np.uint8]:
    """Convert CMYK [H, W, 4] to RGB; ``inverted``: 255 means no ink, as Adobe's JPEGs store it."""
    paper = pixels if inverted else 255 - pixels
    ink, black = paper[..., :3].astype(np.uint16), paper[..., 3:].astype(np.uint16)
    return ((ink * black + 127) // 255).astype(np.uint8)
