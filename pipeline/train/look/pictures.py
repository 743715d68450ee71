"""Arrays as small PNGs and packed bytes that lie inside a page."""

import base64
import io
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAP_SIDE = 80
"""px: larger maps are averaged down to this in pictures; numbers are never taken from pictures."""

# lightness rises with the value in both, so that they read on grey paper, too
_SIGNED = np.array([[8, 20, 92], [42, 92, 190], [128, 128, 128], [238, 150, 48], [255, 240, 176]])
_AMOUNT = np.array([[0, 0, 0], [62, 18, 96], [164, 44, 92], [238, 116, 40], [255, 228, 130]])
_HEAT = (255, 132, 0)


def packed(values: NDArray[Any]) -> str:
    """Return an array's little-endian bytes, deflated, in base 64; the page unpacks them."""
    plain = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(plain.tobytes(), 9)).decode("ascii")


def number(value: float) -> float:
    """Return a float32's value with the seven digits that are its own."""
    return float(f"{float(value):.7g}")


def photograph(pixels: NDArray[np.uint8]) -> str:
    """Return uint8 [H, W, 1 or 3] as a lossless picture."""
    shown = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return _uri(Image.fromarray(shown))


def signed(values: NDArray[np.floating[Any]], limit: float) -> str:
    """Return [h, w] from blue (-limit) through grey (0) to yellow (limit)."""
    level = np.clip(smaller(values) / max(limit, 1e-12), -1, 1)
    return _coloured(np.rint(127.5 + 127.5 * level), _SIGNED)


def amount(values: NDArray[np.floating[Any]], low: float, high: float) -> str:
    """Return [h, w] from black (low) to yellow (high)."""
    level = np.clip((smaller(values) - low) / max(high - low, 1e-12), 0, 1)
    return _coloured(np.rint(255 * level), _AMOUNT)


def filter_picture(weights: NDArray[np.floating[Any]], limit: float) -> str:
    """Return [C, k, k] as colours, zero = grey; other than three channels as their mean."""
    shown = weights if len(weights) == 3 else weights.mean(0, keepdims=True).repeat(3, 0)
    level = np.rint(127.5 + 127.5 * np.clip(shown / max(limit, 1e-12), -1, 1))
    return _uri(Image.fromarray(level.transpose(1, 2, 0).astype(np.uint8)))


def heat(values: NDArray[np.floating[Any]]) -> str:
    """Return [h, w] >= 0 as orange, the stronger the less transparent."""
    small = smaller(values)
    # a few pixels outshine all others
    top = float(np.quantile(small, 0.99)) if small.size else 0.0
    level = (
        np.sqrt(np.clip(small / max(top, float(small.max(initial=0)) / 100, 1e-30), 0, 1)) ** 1.5
    )
    picture = Image.fromarray(np.rint(31 * level).astype(np.uint8), mode="P")
    picture.putpalette(_HEAT * 32)
    opacity = bytes(round(230 * k / 31) for k in range(32))
    return _uri(picture, transparency=opacity)


def limit_of(values: NDArray[np.floating[Any]]) -> float:
    """Return the size that gets full colour: only the strongest half per cent lies beyond it.

    A camera's mask or the frame would else leave everything inside it grey.
    """
    size = np.abs(values)
    common = float(np.quantile(size, 0.995))
    return common if common > 0 else float(size.max(initial=0.0))


def smaller(values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return a map averaged down to at most :data:`MAP_SIDE` px."""
    rows, columns = values.shape
    scale = MAP_SIDE / max(rows, columns)
    if scale >= 1:
        return np.asarray(values, np.float32)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    plain = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(plain.resize(size, Image.Resampling.BOX))


def smaller_photograph(pixels: NDArray[np.uint8], side: int) -> str:
    """Return a JPEG of a drawing or photograph [H, W, 3], at most ``side`` px long."""
    plain = Image.fromarray(pixels)
    plain.thumbnail((side, side), Image.Resampling.BOX)
    buffer = io.BytesIO()
    plain.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _coloured(level: NDArray[np.floating[Any]], ramp: NDArray[np.integer[Any]]) -> str:
    picture = Image.fromarray(level.astype(np.uint8), mode="P")
    place = np.linspace(0, 255, len(ramp))
    table = np.stack([np.interp(np.arange(256), place, ramp[:, c]) for c in range(3)], axis=1)
    picture.putpalette(np.rint(table).astype(np.uint8).tobytes())
    return _uri(picture)


def _uri(picture: Image.Image, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
