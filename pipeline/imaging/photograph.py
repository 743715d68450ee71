"""JPEG, PNG, TIFF, JPEG 2000 and WebP photographs to RGB or grey values, upright."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Contract
from data_schemas.errors import ImageError
from data_schemas.terms import Format
from pipeline.imaging import codestream, tiff, webp
from pipeline.imaging.accept import choose_frame, require_colour
from pipeline.imaging.colour import cmyk_to_rgb
from pipeline.imaging.limits import check_size
from pipeline.imaging.shrink import divisor

_PNG_COLOUR = (2, 3, 6)
_WHITE_IS_ZERO = 0
_TURNED = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class Photograph:
    """Decoded pixels, grey [H, W] or RGB [H, W, 3], uint8 or uint16 (grey TIFF: any type)."""

    pixels: NDArray[Any]
    white_is_zero: bool = False
    warnings: tuple[str, ...] = ()
    frame: int = 0
    """Index of the page of a TIFF."""
    divisor: int = 1
    """By what ``pixels`` are smaller than the photograph."""
    size: tuple[int, int] | None = None
    """Rows and columns of the photograph, where ``pixels`` don't say so."""
    decode: Callable[[int], NDArray[Any]] | None = None
    """Decodes it again by another divisor (1, 2, 4, 8)."""


def pages(data: bytes, form: Format) -> int:
    """Return how many pictures a photograph's file holds.

    Raises
    ------
    ImageError
        TRUNCATED or CORRUPT if the directory of a TIFF can't be read.
    """
    return len(tiff.pages(data)) if form == "tiff" else 1


def read_photograph(
    data: bytes, form: Format, contract: Contract, frame: int | None = None
) -> Photograph:
    """Decode a photograph; ``frame`` is the page of a TIFF, ``None``: by the contract's rule.

    Raises
    ------
    ImageError
        TOO_LARGE, NOT_COLOUR, MULTIFRAME, TRUNCATED, CORRUPT or NO_DECODER.
    """
    if form == "jpeg":
        return _read_jpeg(data, contract)
    if form == "png":
        return _read_png(data, contract)
    if form == "jpeg2000":
        return _read_jpeg2000(data, contract)
    if form == "webp":
        return _read_webp(data, contract)
    return _read_tiff(data, contract, frame)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo a camera's orientation 1..8 (Exif 2.32, tag 274)."""
    if orientation in _TURNED:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _read_jpeg(data: bytes, contract: Contract) -> Photograph:
    stream = codestream.look(data)
    if stream is None or stream.markers is None:
        raise ImageError("CORRUPT", "the JPEG stream can't be read")
    check_size(stream.rows, stream.columns, contract.limits)
    if stream.components not in (1, 3, 4):
        raise ImageError("CORRUPT", f"a photograph can't have {stream.components} components")
    require_colour(stream.components != 1, contract.accept)
    orientation = tiff.orientation(stream.markers.exif)
    if codestream.scalable(stream):
        step = divisor(stream.rows, stream.columns, contract)
        return _scaled_jpeg(data, stream, orientation, step)
    pixels = codestream.decode(data, stream)
    if stream.components == 4:
        pixels = cmyk_to_rgb(pixels, inverted=stream.markers.adobe is not None)
    if pixels.dtype == np.uint16 and pixels.ndim == 3:
        pixels = pixels << (16 - stream.precision)
    return Photograph(upright(pixels, orientation))


def _scaled_jpeg(data: bytes, stream: codestream.Stream, orientation: int, step: int) -> Photograph:
    def decode(number: int) -> NDArray[Any]:
        return upright(codestream.decode(data, stream, divisor=number), orientation)

    size = (stream.rows, stream.columns)
    if orientation in _TURNED:
        size = size[::-1]
    return Photograph(decode(step), divisor=step, size=size, decode=decode)


def _read_png(data: bytes, contract: Contract) -> Photograph:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise ImageError("TRUNCATED", "the PNG file ends inside its header")
    columns, rows, _, colour = struct.unpack(">IIBB", data[16:26])
    check_size(rows, columns, contract.limits)
    require_colour(colour in _PNG_COLOUR, contract.accept)
    exif, complete = _png_chunks(data)
    if not complete:
        raise ImageError("TRUNCATED", "the PNG file ends before its end mark")
    try:
        pixels = imagecodecs.png_decode(data)
    except Exception as error:  # the codec's own kinds
        raise ImageError("CORRUPT", "the PNG decoder refuses the file") from error
    pixels, warnings = _opaque(pixels)
    return Photograph(upright(pixels, tiff.orientation(exif)), warnings=warnings)


def _png_chunks(data: bytes) -> tuple[bytes, bool]:
    # the eXIf chunk, and whether the end chunk is there
    at, exif = 8, b""
    while at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        if name == b"IEND":
            return exif, True
        if name == b"eXIf":
            exif = data[at + 8 : at + 8 + length]
        at += 12 + length
    return exif, False


def _opaque(pixels: NDArray[Any]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Lay a picture with an alpha channel over black, as it would lie around a field of view."""
    if pixels.ndim == 2 or pixels.shape[2] not in (2, 4):
        return pixels, ()
    alpha, colour = pixels[..., -1:], pixels[..., :-1]
    top = np.iinfo(pixels.dtype).max
    if (alpha != top).any():
        colour = (colour.astype(np.uint64) * alpha // top).astype(pixels.dtype)
    colour = colour[..., 0] if colour.shape[2] == 1 else colour
    return np.ascontiguousarray(colour), ("the alpha channel was laid over black",)


def _read_jpeg2000(data: bytes, contract: Contract) -> Photograph:
    stream = codestream.look(data)
    if stream is None or stream.components not in (1, 2, 3, 4):
        raise ImageError("CORRUPT", "a photograph has 1 to 4 components")
    check_size(stream.rows, stream.columns, contract.limits)
    require_colour(stream.components >= 3, contract.accept)
    pixels, warnings = _opaque(codestream.decode(data, stream))
    if stream.precision not in (8, 16) and pixels.dtype.kind == "u":
        # values of other depths in their dtype's full range, as a PNG would hold them
        pixels = pixels << (pixels.dtype.itemsize * 8 - stream.precision)
    return Photograph(np.ascontiguousarray(pixels), warnings=warnings)


def _read_webp(data: bytes, contract: Contract) -> Photograph:
    found = webp.header(data)
    check_size(found.rows, found.columns, contract.limits)
    if found.animated:
        raise ImageError("MULTIFRAME", "an animated WebP is not one photograph")
    try:
        pixels, warnings = _opaque(imagecodecs.webp_decode(data))
    except Exception as error:  # the codec's own kinds
        raise ImageError("CORRUPT", "the WebP decoder refuses the file") from error
    if pixels.shape[:2] != (found.rows, found.columns):
        raise ImageError("CORRUPT", "the decoded picture is not what its header says")
    return Photograph(upright(pixels, tiff.orientation(found.exif)), warnings=warnings)


def _read_tiff(data: bytes, contract: Contract, frame: int | None) -> Photograph:
    held = tiff.pages(data)
    page = choose_frame(len(held), contract.accept.frames, frame)
    found = held[page]
    check_size(found.rows, found.columns, contract.limits)
    warnings: tuple[str, ...] = (f"page {page + 1} of {len(held)}",) if len(held) > 1 else ()
    require_colour(found.samples >= 3 or found.photometric == 3, contract.accept)
    try:
        if found.photometric == 3:  # a palette
            pixels = imagecodecs.tiff_decode(data, index=found.index, asrgb=True)[..., :3]
        else:
            pixels = imagecodecs.tiff_decode(data, index=found.index)
    except Exception as error:  # the codec's own kinds
        raise ImageError("CORRUPT", "the TIFF decoder refuses the file") from error
    if found.samples == 1 and sorted(pixels.shape)[-2:] != sorted((found.rows, found.columns)):
        raise ImageError("CORRUPT", "the decoded page is not what its directory says")
    if pixels.ndim == 3 and pixels.shape[0] in (3, 4) and pixels.shape[2] not in (3, 4):
        pixels = np.moveaxis(pixels, 0, -1)  # stored by plane
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255  # bilevel: black and white, as a PNG of 1 bit
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels, more = _opaque(pixels)
        warnings += more
    good = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype in (np.uint8, np.uint16))  # fmt: skip
    if not good or pixels.dtype.kind not in "iuf":
        raise ImageError("NO_DECODER", "this kind of TIFF is not supported")
    return Photograph(
        upright(pixels, found.orientation), found.photometric == _WHITE_IS_ZERO, warnings, page
    )
