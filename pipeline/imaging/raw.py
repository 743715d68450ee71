"""One uncompressed frame to stored values: bit depths, byte orders, planes, chroma layouts (PS3.5 8)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import ImageError
from pipeline.imaging.colour import unpack_ybr_422
from pipeline.imaging.dicom_header import ImageHeader

Bytes = bytes | memoryview


def frame_bytes(header: ImageHeader) -> int:
    """Return how many bytes one uncompressed frame takes; frames of 1 bit may end inside a byte."""
    if header.half_chroma:
        return (header.rows * header.columns + 1) // 2 * 4
    return (header.rows * header.columns * header.samples * header.allocated + 7) // 8


def held_frames(header: ImageHeader) -> int:
    """Return how many whole frames native pixel data hold."""
    if header.allocated == 1:
        return len(header.value) * 8 // (header.rows * header.columns * header.samples)
    return len(header.value) // frame_bytes(header)


def frame_of(header: ImageHeader) -> Bytes:
    """Cut the chosen frame out of native pixel data.

    A frame that is whole counts, also where later ones are missing.

    Raises
    ------
    ImageError
        TRUNCATED if the frame is not wholly there.
    """
    value, size = header.value, frame_bytes(header)
    if header.allocated == 1:
        return _bits_of(header)
    start = size * header.frame
    if len(value) < start + size:
        raise _too_short(len(value), start + size)
    if header.swap_words:
        # 8-bit values written as big-endian 16-bit words: every two neighbours change places
        first, last = start - start % 2, start + size + (start + size) % 2
        words = bytes(value[first:last]).ljust(last - first, b"\0")
        return np.frombuffer(words, ">u2").astype("<u2").tobytes()[start - first :][:size]
    return value[start : start + size]


def values_of(header: ImageHeader, frame: Bytes) -> NDArray[Any]:
    """Return [rows, columns] or [rows, columns, samples] of the bytes of one frame.

    Raises
    ------
    ImageError
        TRUNCATED if there are fewer bytes than the frame takes.
    """
    size = frame_bytes(header)
    if len(frame) < size:
        raise _too_short(len(frame), size)
    frame = frame[:size]
    rows, columns = header.rows, header.columns
    order = "<" if header.little_endian else ">"
    if header.kind != "PixelData":
        floats = np.frombuffer(frame, f"{order}f{header.allocated // 8}")
        native = floats.reshape(rows, columns).astype(floats.dtype.newbyteorder("="))
        native[np.isnan(native)] = np.nan  # a signalling one would complain at every later step
        return native
    if header.allocated == 1:
        packed = np.frombuffer(frame, np.uint8)
        return np.unpackbits(packed, bitorder="little")[: rows * columns].reshape(rows, columns)
    if header.allocated == 12:
        return masked(_packed_12(frame, rows * columns).reshape(rows, columns), header)
    values = np.frombuffer(frame, f"{order}u{header.allocated // 8}")
    if header.half_chroma:
        return _whole_chroma(values, rows, columns)
    if header.samples == 1:
        return masked(values.reshape(rows, columns), header)
    if header.planar:
        values = np.moveaxis(values.reshape(header.samples, rows, columns), 0, -1)
    else:
        values = values.reshape(rows, columns, header.samples)
    return masked(np.ascontiguousarray(values), header)


def masked(values: NDArray[Any], header: ImageHeader) -> NDArray[Any]:
    """Return native integers of Bits Stored: other bits dropped, the sign extended."""
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    width = native.dtype.itemsize * 8
    if header.signed:
        native = native.view(native.dtype.str.replace("u", "i"))
    if width > header.stored and _other_bits(native, header):
        # up until the highest stored bit is the highest bit, then back: drops and extends at once
        native = (native << (width - 1 - header.high_bit)) >> (width - header.stored)
    return native


def _other_bits(native: NDArray[Any], header: ImageHeader) -> bool:
    # reading all values once is cheaper than moving them
    if header.high_bit != header.stored - 1 or not native.size:
        return True
    if not header.signed:
        return bool(np.bitwise_or.reduce(native, axis=None) >> header.stored)
    half = 1 << (header.stored - 1)
    return not -half <= int(native.min()) <= int(native.max()) < half


def _too_short(held: int, needed: int) -> ImageError:
    return ImageError("TRUNCATED", f"the pixel data have {held} bytes of {needed} expected")


def _bits_of(header: ImageHeader) -> bytes:
    # 1-bit frames follow one another without a gap, so one may begin inside a byte
    one = header.rows * header.columns * header.samples
    first = one * header.frame
    last = (first + one + 7) // 8
    if len(header.value) < last:
        raise _too_short(len(header.value), last)
    part = header.value[first // 8 : last]
    if first % 8 == 0:
        return bytes(part)
    bits = np.unpackbits(np.frombuffer(part, np.uint8), bitorder="little")
    return np.packbits(bits[first % 8 :][:one], bitorder="little").tobytes()


def _packed_12(frame: Bytes, count: int) -> NDArray[np.uint16]:
    # the packed cells of ACR-NEMA: two values in three bytes, the lowest bits first
    triples = np.frombuffer(frame[: len(frame) // 3 * 3], np.uint8).reshape(-1, 3).astype(np.uint16)
    values = np.empty((len(triples), 2), np.uint16)
    values[:, 0] = triples[:, 0] | (triples[:, 1] & 15) << 8
    values[:, 1] = triples[:, 1] >> 4 | triples[:, 2] << 4
    flat = values.ravel()
    if len(flat) < count:  # an odd count: one value more in two bytes
        last = np.frombuffer(frame[len(frame) // 3 * 3 :], np.uint8).astype(np.uint16)
        flat = np.append(flat, last[0] | (last[1] & 15) << 8)
    return flat[:count]


def _whole_chroma(values: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    # pairs run on from row to row where a width is odd
    if columns % 2 == 0:
        return unpack_ybr_422(values, rows, columns)
    flat = unpack_ybr_422(values, 1, len(values) // 2)
    return flat[0, : rows * columns].reshape(rows, columns, 3)
