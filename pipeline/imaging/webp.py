"""Reads the headers of a WebP file (RFC 9649) without decoding it: size, animation, Exif, completeness."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from data_schemas.errors import ImageError

_ANIMATION = 0x02


@dataclass(frozen=True, slots=True)
class WebpHeader:
    """What the file says about its picture."""

    rows: int
    columns: int
    animated: bool
    exif: bytes
    """The TIFF structure of the EXIF chunk, or nothing."""


def header(data: bytes) -> WebpHeader:
    """Read the header chunks.

    Raises
    ------
    ImageError
        TRUNCATED if the bytes end before the RIFF container says; CORRUPT if there is no picture.
    """
    if len(data) < int.from_bytes(data[4:8], "little") + 8:
        raise ImageError("TRUNCATED", "the WebP file is shorter than its header says")
    canvas: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    animated, exif = False, b""
    for name, body in _chunks(data):
        if name == b"VP8X" and len(body) >= 10:
            animated = bool(body[0] & _ANIMATION)
            columns, rows = (int.from_bytes(body[i : i + 3], "little") + 1 for i in (4, 7))
            canvas = (rows, columns)
        elif name == b"VP8 " and size is None:
            size = _lossy(body)
        elif name == b"VP8L" and size is None:
            size = _lossless(body)
        elif name == b"EXIF":
            exif = bytes(body).removeprefix(b"Exif\x00\x00")
    found = canvas if animated else size
    if found is None or (canvas is not None and canvas != found):
        raise ImageError("CORRUPT", "the WebP file holds no picture of the size it says")
    return WebpHeader(*found, animated, exif)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view, at = memoryview(data), 12
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        yield name, view[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _lossy(body: memoryview) -> tuple[int, int]:
    # RFC 6386 9.1: three bytes, a start code, then 14 bits each of width and height
    if len(body) < 10 or bytes(body[3:6]) != b"\x9d\x01\x2a":
        raise ImageError("CORRUPT", "the WebP file's lossy picture has no key frame")
    columns, rows = struct.unpack_from("<HH", body, 6)
    return rows & 0x3FFF, columns & 0x3FFF


def _lossless(body: memoryview) -> tuple[int, int]:
    # a signature, then 14 bits each of width - 1 and height - 1
    if len(body) < 5 or body[0] != 0x2F:
        raise ImageError("CORRUPT", "the WebP file's lossless picture has no signature")
    bits = int.from_bytes(body[1:5], "little")
    return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
