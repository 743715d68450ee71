"""Colour of every kind to RGB: YCbCr, palette, CMYK; and an instance to 0..255."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Grey
from pipeline.imaging.grey import grey_levels
from pipeline.imaging.instance import Instance

# ITU-T T.871 (JFIF), full range, after Rec. 601
_CR_TO_R = 1.402
_CB_TO_G = -0.114 * 1.772 / 0.587
_CR_TO_G = -0.299 * 1.402 / 0.587
_CB_TO_B = 1.772
_REC601 = np.array([0.299, 0.587, 0.114], np.float32)


def display_levels(instance: Instance, recipe: Grey) -> NDArray[np.uint8]:
    """Return the instance as uint8: grey [H, W] by the contract's recipe, or RGB [H, W, 3]."""
    if instance.grey is not None:
        return grey_levels(instance.pixels, instance.grey, recipe)
    if instance.pixels.dtype == np.uint16:
        return (instance.pixels >> 8).astype(np.uint8)
    return instance.pixels.astype(np.uint8, copy=False)


def with_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Return [H, W, channels]: grey repeated to three, or colour as Rec. 601 luma."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] == channels:
        return np.ascontiguousarray(pixels)
    if channels == 3:
        return np.ascontiguousarray(np.repeat(pixels, 3, axis=2))
    luma = pixels.astype(np.float32) @ _REC601
    return np.ascontiguousarray((luma + 0.5).astype(np.uint8)[..., None])


def ybr_full_to_rgb(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert YBR_FULL [H, W, 3], 8 bit, to RGB (PS3.3 C.7.6.3.1.2)."""
    y, cb, cr = np.moveaxis(pixels.astype(np.float32), -1, 0)
    cb -= 128
    cr -= 128
    rgb = np.stack([y + _CR_TO_R * cr, y + _CB_TO_G * cb + _CR_TO_G * cr, y + _CB_TO_B * cb], -1)
    return np.clip(rgb + 0.5, 0, 255).astype(np.uint8)


def unpack_ybr_422(values: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Unpack YBR_FULL_422 (Y Y Cb Cr for two pixels) to YBR [rows, columns, 3]."""
    pairs = values.reshape(rows, columns // 2, 4)
    out = np.empty((rows, columns // 2, 2, 3), np.uint8)
    out[..., 0] = pairs[..., :2]
    out[..., 1:] = pairs[:, :, None, 2:]
    return out.reshape(rows, columns, 3)


def apply_palette(
    indices: NDArray[Any], first: int, colours: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Look stored values up in a palette; values before and after it take its ends."""
    places = np.clip(indices.astype(np.int64) - first, 0, len(colours) - 1)
    return colours[places]


def cmyk_to_rgb(pixels: NDArray[np.uint8], *, inverted: bool) -> NDArray[np.uint8]:
    """Convert CMYK [H, W, 4] to RGB; ``inverted``: 255 means no ink, as Adobe's JPEGs store it."""
    paper = pixels if inverted else 255 - pixels
    ink, black = paper[..., :3].astype(np.uint16), paper[..., 3:].astype(np.uint16)
    return ((ink * black + 127) // 255).astype(np.uint8)
