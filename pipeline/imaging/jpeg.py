"""Reads the markers of a JPEG (ITU-T T.81) or JPEG-LS (T.87) stream without decoding it."""

import struct
from dataclasses import dataclass

from data_schemas.errors import ImageError

_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAMES = frozenset(
    {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}
)
HUFFMAN_DCT = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended sequential and progressive."""
LOSSLESS = 0xC3
JPEG_LS = 0xF7


@dataclass(frozen=True, slots=True)
class JpegMarkers:
    """The frame header, and the markers that say what the components mean."""

    sof: int
    precision: int
    rows: int
    columns: int
    components: int
    jfif: bool
    adobe: int | None
    """The colour transform of the Adobe APP14 segment; ``None`` without one."""
    exif: bytes
    """The TIFF structure inside the first Exif APP1 segment, or nothing."""
    complete: bool
    """An end-of-image marker stands after the first scan."""


def markers(data: bytes) -> JpegMarkers:
    """Walk the segments of ``data`` up to the first scan.

    Raises
    ------
    ImageError
        TRUNCATED if the bytes end before a scan begins; CORRUPT if no frame header is found.
    """
    jfif, adobe, exif = False, None, b""
    frame: tuple[int, int, int, int, int] | None = None
    at = 2
    while True:
        code, body, at = _segment(data, at)
        if code in _FRAMES:
            if len(body) < 6:
                raise ImageError("CORRUPT", "the JPEG frame header is too short")
            frame = (code, *struct.unpack(">BHHB", body[:6]))
        elif code == 0xE0 and body.startswith(b"JFIF"):
            jfif = True
        elif code == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        elif code == 0xE1 and body.startswith(b"Exif\x00\x00") and not exif:
            exif = body[6:]
        elif code == 0xDA:
            break
    if frame is None:
        raise ImageError("CORRUPT", "the JPEG stream has no frame header before its first scan")
    sof, precision, rows, columns, components = frame
    complete = data.rfind(b"\xff\xd9") >= at
    return JpegMarkers(sof, precision, rows, columns, components, jfif, adobe, exif, complete)


def _segment(data: bytes, at: int) -> tuple[int, bytes, int]:
    # one marker, its segment's body, and the place after it
    while True:
        if at + 2 > len(data):
            raise ImageError("TRUNCATED", "the JPEG stream ends before its pixels begin")
        if data[at] != 0xFF:
            raise ImageError("CORRUPT", "the JPEG stream holds no marker where one must stand")
        code = data[at + 1]
        if code == 0xFF:  # fill bytes may stand before a marker
            at += 1
        elif code == 0xD9:
            raise ImageError("TRUNCATED", "the JPEG stream ends before its pixels begin")
        elif code in _STANDALONE:
            at += 2
        else:
            break
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    end = at + 2 + length
    if at + 4 > len(data) or end > len(data):
        raise ImageError("TRUNCATED", "the JPEG stream ends before its pixels begin")
    if length < 2:
        raise ImageError("CORRUPT", "a JPEG segment claims a negative length")
    return code, data[at + 4 : end], end
