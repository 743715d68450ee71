"""One frame of a DICOM object to stored values or RGB: raw, encapsulated, RLE and every codestream."""

from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import ImageError
from pipeline.imaging import codestream, fragments
from pipeline.imaging.colour import apply_palette, unpack_ybr_422, ybr_full_to_rgb
from pipeline.imaging.dicom_header import ImageHeader
from pipeline.imaging.limits import inflate, same_size

RLE = "1.2.840.10008.1.2.5"
ENCAPSULATED_RAW = "1.2.840.10008.1.2.1.98"
DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
_VIDEO = "1.2.840.10008.1.2.4.10"  # .100 to .109: MPEG-2, MPEG-4, HEVC
_UNCOMPRESSED = ("", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")  # fmt: skip
_STILL_IMAGES = ("1.2.840.10008.1.2.4.5", "1.2.840.10008.1.2.4.6", "1.2.840.10008.1.2.4.7", "1.2.840.10008.1.2.4.8", "1.2.840.10008.1.2.4.9", "1.2.840.10008.1.2.4.11", "1.2.840.10008.1.2.4.20")  # fmt: skip


def decode_frame(
    header: ImageHeader, divisor: int = 1
) -> tuple[NDArray[Any], int, tuple[str, ...]]:
    """Decode the chosen frame.

    Parameters
    ----------
    divisor
        By what a colour JPEG may be smaller: 1, 2, 4 or 8. Anything else is decoded in full.

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
    encapsulated = header.value.startswith(fragments.ITEM)
    done = 1
    if encapsulated:
        values, done, colour_done, warnings = _encapsulated(header, divisor)
    elif header.syntax in _UNCOMPRESSED or header.kind != "PixelData":
        values, colour_done, warnings = _raw(header, _raw_frame(header)), False, ()
    else:
        raise ImageError("CORRUPT", "the transfer syntax is compressed, the pixel data are not")
    if header.palette is not None:
        return apply_palette(values, *header.palette), done, warnings
    if header.samples == 3:
        return _rgb(values, header, colour_done=colour_done), done, warnings
    return values, done, warnings


def _encapsulated(
    header: ImageHeader, divisor: int
) -> tuple[NDArray[Any], int, bool, tuple[str, ...]]:
    frame = fragments.frame_of(header.value, header.frames, header.frame, header.offsets)
    if header.syntax == RLE:
        return _rle(frame, header), 1, False, ()
    if header.syntax == ENCAPSULATED_RAW:
        return _raw(header, frame), 1, False, ()
    if header.syntax == DEFLATED_FRAME:
        return _raw(header, inflate(frame, _frame_bytes(header) + 1)), 1, False, ()
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
    done = divisor if codestream.scalable(stream, header_rgb=rgb) else 1
    values = codestream.decode(frame, stream, header_rgb=rgb, divisor=done)
    _same_shape(values, header, done)
    colour_done = stream.colour_done or header.photometric in ("YBR_ICT", "YBR_RCT")
    warnings = () if _said(header.syntax, stream.kind) else (f"the codestream is {stream.kind}",)
    return _stored(values, stream.precision, header), done, colour_done, warnings


def _same_shape(values: NDArray[Any], header: ImageHeader, divisor: int) -> None:
    expected: tuple[int, ...] = (-(-header.rows // divisor), -(-header.columns // divisor))
    if header.samples == 3:
        expected = (*expected, 3)
    if values.shape != expected:
        raise ImageError("CORRUPT", "the decoded frame is not what the header says")


def _stored(values: NDArray[Any], precision: int, header: ImageHeader) -> NDArray[Any]:
    """Give decoded values the sign of the header, and clip them to Bits Stored.

    Streams carry a sign and a depth of their own. Decoded values are clipped, not masked: lossy
    values just past the top would wrap around to black.
    """
    if values.dtype.kind not in "iu" or header.samples == 3:
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
    most_of = np.iinfo(values.dtype)
    return np.clip(values, max(low, most_of.min), min(high, most_of.max))


def _signed(values: NDArray[Any], width: int) -> NDArray[Any]:
    # up until the sign is the highest bit, then back down: in place of a wider type
    unused = values.dtype.itemsize * 8 - width
    as_signed = values.dtype.str.replace("u", "i")
    if unused <= 0:
        return values.view(as_signed)
    return (values << unused).view(as_signed) >> unused


def _rgb(values: NDArray[Any], header: ImageHeader, *, colour_done: bool) -> NDArray[Any]:
    if not colour_done and header.photometric in ("YBR_FULL", "YBR_FULL_422"):
        if values.dtype != np.uint8:
            raise ImageError("NO_DECODER", "YBR_FULL of more than 8 bits is not supported")
        return ybr_full_to_rgb(values)
    if not colour_done and header.photometric.startswith("YBR_PARTIAL"):
        raise ImageError("NO_DECODER", "YBR_PARTIAL without compression is not supported")
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "iu":
        raise ImageError("NO_DECODER", "colour in floating point is not supported")
    whole = np.clip(values.astype(np.int64), 0, (1 << header.stored) - 1)
    # the full range of 16 bits, whatever was stored
    down, up = max(header.stored - 16, 0), max(16 - header.stored, 0)
    scaled: NDArray[np.uint16] = (whole >> down << up).astype(np.uint16)
    return scaled


def _rle(frame: bytes, header: ImageHeader) -> NDArray[Any]:
    count = header.rows * header.columns
    try:
        decoded = imagecodecs.dicomrle_decode(frame, f"<u{max(header.allocated // 8, 1)}")
    except Exception as error:  # the codec's own kinds
        raise ImageError("CORRUPT", "the RLE decoder refuses the segments") from error
    if header.allocated == 1:
        return _raw(header, bytes(decoded))  # packed as it would be without RLE
    planes = np.frombuffer(decoded, f"<u{header.allocated // 8}")
    if planes.size < count * header.samples:
        raise ImageError("TRUNCATED", "the RLE segments hold fewer values than the frame has")
    shaped = planes[: count * header.samples].reshape(header.samples, header.rows, header.columns)
    values = np.moveaxis(shaped, 0, -1) if header.samples == 3 else shaped[0]
    return _masked(np.ascontiguousarray(values), header)


def _frame_bytes(header: ImageHeader) -> int:
    count = header.rows * header.columns
    if header.photometric == "YBR_FULL_422" and header.allocated == 8:
        return count * 2
    return (count * header.samples * header.allocated + 7) // 8


def _raw_frame(header: ImageHeader) -> bytes:
    one = header.rows * header.columns * header.samples * header.allocated
    size = _frame_bytes(header)
    needed = (one * header.frames + 7) // 8 if header.allocated == 1 else size * header.frames
    if len(header.value) < needed:
        raise ImageError(
            "TRUNCATED", f"the pixel data have {len(header.value)} bytes of {needed} expected"
        )
    if header.swap_words:
        start = size * header.frame
        return _swapped(header.value)[start : start + size]
    if header.allocated == 1 and one % 8:
        bits = np.unpackbits(np.frombuffer(header.value, np.uint8), bitorder="little")
        chosen = bits[one * header.frame : one * (header.frame + 1)]
        return np.packbits(chosen, bitorder="little").tobytes()
    return header.value[size * header.frame : size * (header.frame + 1)]


def _raw(header: ImageHeader, frame: bytes) -> NDArray[Any]:
    size = _frame_bytes(header)
    if len(frame) < size:
        raise ImageError("TRUNCATED", f"the frame has {len(frame)} bytes of {size} expected")
    frame = frame[:size]
    rows, columns = header.rows, header.columns
    order = "<" if header.little_endian else ">"
    if header.kind != "PixelData":
        values = np.frombuffer(frame, f"{order}f{header.allocated // 8}")
        return values.reshape(rows, columns).astype(values.dtype.newbyteorder("="))
    if header.allocated == 1:
        packed = np.frombuffer(frame, np.uint8)
        return np.unpackbits(packed, bitorder="little")[: rows * columns].reshape(rows, columns)
    values = np.frombuffer(frame, f"{order}u{header.allocated // 8}")
    if header.photometric == "YBR_FULL_422" and header.allocated == 8:
        if columns % 2:
            raise ImageError("CORRUPT", "YBR_FULL_422 needs an even number of columns")
        return unpack_ybr_422(values, rows, columns)
    if header.samples == 3:
        if header.planar:
            values = np.moveaxis(values.reshape(3, rows, columns), 0, -1)
        else:
            values = values.reshape(rows, columns, 3)
        return _masked(np.ascontiguousarray(values), header)
    return _masked(values.reshape(rows, columns), header)


def _swapped(value: bytes) -> bytes:
    # 8-bit values written as big-endian 16-bit words: every two neighbours change places
    even = value if len(value) % 2 == 0 else value + b"\x00"
    return np.frombuffer(even, ">u2").astype("<u2").tobytes()


def _masked(values: NDArray[Any], header: ImageHeader) -> NDArray[Any]:
    """Return native integers of Bits Stored: other bits dropped, the sign extended."""
    native = values.astype(values.dtype.newbyteorder("="))
    above = header.allocated - 1 - header.high_bit
    unused = header.allocated - header.stored
    if header.signed:
        native = native.view(native.dtype.str.replace("u", "i"))
    if unused:
        # up until the highest stored bit is the highest bit, then back: drops and extends at once
        native = (native << above) >> unused
    return native


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
