"""One frame of a DICOM object to stored values or RGB: native, encapsulated, RLE and every codestream."""

from dataclasses import dataclass, replace
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import ImageError
from pipeline.imaging import codestream, fragments, raw
from pipeline.imaging.colour import apply_palette, cmyk_to_rgb, ybr_full_to_rgb
from pipeline.imaging.dicom_header import UNSURE, ImageHeader
from pipeline.imaging.limits import inflate, same_size

RLE = "1.2.840.10008.1.2.5"
ENCAPSULATED_RAW = "1.2.840.10008.1.2.1.98"
DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
_RLE_PADDING = 1 << 16
_VIDEO = "1.2.840.10008.1.2.4.10"  # .100 to .109: MPEG-2, MPEG-4, HEVC
_NATIVE = ("", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")  # fmt: skip
_STILL_IMAGES = ("1.2.840.10008.1.2.4.5", "1.2.840.10008.1.2.4.6", "1.2.840.10008.1.2.4.7", "1.2.840.10008.1.2.4.8", "1.2.840.10008.1.2.4.9", "1.2.840.10008.1.2.4.11", "1.2.840.10008.1.2.4.20")  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Frame:
    """A decoded frame before its colour is settled."""

    values: NDArray[Any]
    divisor: int = 1
    rgb: bool = False
    """The decoder already gave RGB."""
    warnings: tuple[str, ...] = ()


def frames_of(header: ImageHeader) -> fragments.Frames | None:
    """Tell the frames of encapsulated pixel data apart; ``None`` for native ones.

    Raises
    ------
    ImageError
        TRUNCATED or CORRUPT as :func:`fragments.split`.
    """
    if not header.encapsulated:
        return None
    return fragments.split(header.value, header.frames, header.offsets)


def decode_frame(
    header: ImageHeader, divisor: int = 1, found: fragments.Frames | None = None
) -> tuple[NDArray[Any], int, tuple[str, ...]]:
    """Decode the chosen frame.

    Parameters
    ----------
    divisor
        By what a colour JPEG may be smaller: 1, 2, 4 or 8. Anything else is decoded in full.
    found
        :func:`frames_of` of the same object, where it is already known.

    Returns
    -------
    pixels
        Stored values [H, W] of a grey instance, or RGB [H, W, 3].
    divisor
        By what they are smaller.
    warnings
        What was mended on the way.

    Raises
    ------
    ImageError
        TRUNCATED, CORRUPT or NO_DECODER.
    """
    if header.syntax.startswith(_VIDEO):
        raise ImageError("NO_DECODER", "the pixel data are a video")
    found = found or frames_of(header)
    frame = _encapsulated(header, found, divisor) if found is not None else _native(header)
    if header.palette is not None:
        values = apply_palette(frame.values, *header.palette)
    elif header.samples > 1:
        values = _rgb(frame.values, header, colour_done=frame.rgb)
    else:
        values = frame.values
    return values, frame.divisor, frame.warnings


def _native(header: ImageHeader) -> _Frame:
    warnings: tuple[str, ...] = ()
    if header.syntax not in _NATIVE and header.kind == "PixelData":
        if header.frames == 1 and codestream.look(bytes(header.value)) is not None:
            found = _stream(bytes(header.value), header, 1)
            return replace(found, warnings=("the codestream stands outside of any item",))
        needed = raw.frame_bytes(header) * header.frames
        if not needed <= len(header.value) <= needed + needed % 2:
            raise ImageError("CORRUPT", "the transfer syntax is compressed, the pixel data are not")
        warnings = ("the transfer syntax is compressed, the pixel data are not",)
    elif raw.held_frames(header) < header.frames:
        warnings = ("later frames are missing",)
    return _Frame(raw.values_of(header, raw.frame_of(header)), warnings=warnings)


def _encapsulated(header: ImageHeader, found: fragments.Frames, divisor: int) -> _Frame:
    frame = found.frame(header.frame)
    warnings = ("later frames are missing",) if len(found) < header.frames else ()
    if header.syntax == RLE:
        return _Frame(_rle(frame, header), warnings=warnings)
    if header.syntax == ENCAPSULATED_RAW:
        return _Frame(raw.values_of(header, frame), warnings=warnings)
    if header.syntax == DEFLATED_FRAME:
        inflated = inflate(frame, raw.frame_bytes(header) + 1)
        return _Frame(raw.values_of(header, inflated), warnings=warnings)
    decoded = _stream(frame, header, divisor)
    return replace(decoded, warnings=(*warnings, *decoded.warnings))


def _stream(frame: bytes, header: ImageHeader, divisor: int) -> _Frame:
    stream = codestream.look(frame)
    if stream is None:
        if header.syntax.startswith(_STILL_IMAGES):
            raise ImageError("CORRUPT", "the pixel data hold no codestream that can be recognised")
        raise ImageError("NO_DECODER", "no decoder for this transfer syntax")
    same_size((header.rows, header.columns), (stream.rows, stream.columns))
    if stream.components not in (None, header.samples):
        raise ImageError(
            "CORRUPT",
            f"the header says {header.samples} samples per pixel, "
            f"the compressed data {stream.components}",
        )
    if stream.precision > 32:
        raise ImageError("NO_DECODER", f"no decoder for {stream.precision} bits per sample")
    rgb = header.photometric == "RGB"
    smaller = divisor if codestream.scalable(stream, header_rgb=rgb) else 1
    values = codestream.decode(frame, stream, header_rgb=rgb, divisor=smaller)
    _same_shape(values, header, smaller)
    colour_done = stream.colour_done or header.photometric in ("YBR_ICT", "YBR_RCT")
    warnings = () if _said(header.syntax, stream.kind) else (f"the codestream is {stream.kind}",)
    return _Frame(_stored(values, stream.precision, header), smaller, colour_done, warnings)


def _same_shape(values: NDArray[Any], header: ImageHeader, divisor: int) -> None:
    expected: tuple[int, ...] = (-(-header.rows // divisor), -(-header.columns // divisor))
    if header.samples > 1:
        expected = (*expected, header.samples)
    if values.shape != expected:
        raise ImageError("CORRUPT", "the decoded frame is not what the header says")


def _stored(values: NDArray[Any], precision: int, header: ImageHeader) -> NDArray[Any]:
    """Give decoded values the sign of the header, and clip them to Bits Stored.

    Streams carry a sign and a depth of their own. Decoded values are clipped, not masked: lossy
    values just past the top would wrap around to black.
    """
    if values.dtype.kind not in "iu" or header.samples > 1:
        return values
    bits = header.stored
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if header.signed else (0, (1 << bits) - 1)  # fmt: skip
    least, most = int(values.min()), int(values.max())
    if low <= least and most <= high:
        return values
    unsigned_stream = values.dtype.kind == "u"
    if header.signed and unsigned_stream:
        width = bits if most < 1 << bits else max(bits, precision)
        values = _signed(values, width)
    elif not header.signed and least < 0:
        width = min(max(bits, precision), values.dtype.itemsize * 8)
        values = values.view(values.dtype.str.replace("i", "u")) & ((1 << width) - 1)
    held = np.iinfo(values.dtype)
    clipped: NDArray[Any] = np.clip(values, max(low, held.min), min(high, held.max))
    return clipped


def _signed(values: NDArray[Any], width: int) -> NDArray[Any]:
    # up until the sign is the highest bit, then back down: in place of a wider type
    unused = values.dtype.itemsize * 8 - width
    as_signed = values.dtype.str.replace("u", "i")
    signed: NDArray[Any] = (
        (values << unused).view(as_signed) if unused > 0 else values.view(as_signed)
    )
    return signed >> max(unused, 0)


def _rgb(values: NDArray[Any], header: ImageHeader, *, colour_done: bool) -> NDArray[Any]:
    if header.samples == 4:
        if header.photometric == "CMYK":
            values = cmyk_to_rgb(_eight(values, header), inverted=False)
        else:  # ARGB (retired) has alpha first, RGB with a fourth sample last
            values = values[..., 1:] if header.photometric == "ARGB" else values[..., :3]
    if values.dtype.kind not in "iu":
        raise ImageError("NO_DECODER", "colour in floating point is not supported")
    if not colour_done:
        values = _converted(values, header)
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    whole = np.clip(values.astype(np.int64), 0, (1 << header.stored) - 1)
    # the full range of 16 bits, whatever was stored
    down, up = max(header.stored - 16, 0), max(16 - header.stored, 0)
    scaled: NDArray[np.uint16] = (whole >> down << up).astype(np.uint16)
    return scaled


def _converted(values: NDArray[Any], header: ImageHeader) -> NDArray[Any]:
    """Turn native luma and chroma into RGB; YBR_RCT and YBR_ICT exist in JPEG 2000 only, which undoes them."""
    named = header.photometric
    if named == UNSURE:
        # Cb and Cr of most pixels lie around the middle, red, green and blue don't
        middle = np.median(values[..., 1:].reshape(-1, 2), axis=0) - 128
        named = "YBR_FULL" if (np.abs(middle) <= 24).all() else "RGB"
    if named in ("YBR_FULL", "YBR_FULL_422"):
        return ybr_full_to_rgb(_eight(values, header))
    if named.startswith("YBR_PARTIAL"):
        if header.photometric == "YBR_PARTIAL_420":
            raise ImageError("NO_DECODER", "YBR_PARTIAL_420 without compression has no layout")
        return ybr_full_to_rgb(_full_range(_eight(values, header)))
    return values


def _full_range(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # Y in 16..235 and chroma in 16..240 (Rec. 601) to 0..255
    span = np.array([219.0, 224.0, 224.0])
    start = np.array([16.0, 128.0, 128.0])
    full = (values - start) * 255.0 / span + (0.0, 128.0, 128.0)
    rounded: NDArray[np.uint8] = np.clip(np.rint(full), 0, 255).astype(np.uint8)
    return rounded


def _eight(values: NDArray[Any], header: ImageHeader) -> NDArray[np.uint8]:
    # the highest 8 of the stored bits
    if values.dtype == np.uint8:
        return values
    down = max(header.stored - 8, 0)
    eight: NDArray[np.uint8] = np.clip(values.astype(np.int64) >> down, 0, 255).astype(np.uint8)
    return eight


def _rle(frame: bytes, header: ImageHeader) -> NDArray[Any]:
    count = header.rows * header.columns
    width = max(header.allocated // 8, 1)
    # runs may say more than the frame has: padding does, a bomb says 64 times as much as its bytes
    most = 2 * raw.frame_bytes(header) + _RLE_PADDING
    try:
        decoded = imagecodecs.dicomrle_decode(frame, f"<u{width}", out=most)
    except Exception as error:  # the codec's own kinds
        raise ImageError("CORRUPT", "the RLE decoder refuses the segments") from error
    if header.allocated == 1:
        return raw.values_of(header, bytes(decoded))  # packed as it would be without RLE
    planes = np.frombuffer(decoded[: len(decoded) // width * width], f"<u{width}")
    if planes.size < count * header.samples:
        raise ImageError("TRUNCATED", "the RLE segments hold fewer values than the frame has")
    shaped = planes[: count * header.samples].reshape(header.samples, header.rows, header.columns)
    values = np.moveaxis(shaped, 0, -1) if header.samples > 1 else shaped[0]
    return raw.masked(np.ascontiguousarray(values), header)


def _said(syntax: str, kind: str) -> bool:
    """Tell whether a transfer syntax announces this kind of codestream."""
    tail = syntax.removeprefix("1.2.840.10008.1.2.4.")
    announced = {
        "jpeg": ("50", "51", "52", "53", "54", "55", "56"),
        "lossless jpeg": ("57", "58", "70"),
        "jpeg-ls": ("80", "81"),
        "jpeg 2000": ("90", "91", "92", "93", "201", "202", "203"),
        "jpeg xl": ("110", "111", "112"),
    }
    return tail in announced[kind]
