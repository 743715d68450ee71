"""JPEG 2000, JPEG XL and WebP without metadata: boxes and chunks by an allow-list, comments blanked."""

import struct
from collections.abc import Iterator

from data_schemas.errors import ImageError
from pipeline.imaging.tiff import orientation
from pipeline.ingest.deidentify.icc import clean_profile
from pipeline.ingest.deidentify.jpeg import exif_of

_JP2 = (b"jP  ", b"ftyp", b"ihdr", b"bpcc", b"pclr", b"cmap", b"cdef", b"resc", b"resd")
_JXL = (b"JXL ", b"ftyp", b"jxll", b"jxlc", b"jxlp")
_COM, _SOT, _SOD, _EOC = 0xFF64, 0xFF90, 0xFF93, 0xFFD9
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM")
_ICC_FLAG, _EXIF_FLAG, _XMP_FLAG = 0x20, 0x08, 0x04


def clean_jpeg2000(data: bytes) -> bytes:
    """Return a JPEG 2000 photograph, a bare codestream or a JP2 file, without metadata."""
    return blank_comments(data) if data.startswith(b"\xff\x4f") else clean_jp2(data)


def clean_jp2(data: bytes) -> bytes:
    """Return a JP2 file (T.800 annex I) with the boxes that decoding needs; XML, UUID and others go."""
    return b"".join(_jp2_box(name, body) for name, body in _boxes(data))


def clean_jxl(data: bytes) -> bytes:
    """Return a JPEG XL container (18181-2) without Exif, XML and all other metadata boxes."""
    return b"".join(_box(name, body) for name, body in _boxes(data) if name in _JXL)


def blank_comments(stream: bytes) -> bytes:
    """Return a JPEG 2000 codestream of the same length, its comments (T.800 A.9.2) filled with blanks.

    Raises
    ------
    ImageError
        CORRUPT or TRUNCATED if its markers can't be followed.
    """
    out = bytearray(stream)
    at = 2
    while True:
        at = _through_header(out, at, stop=_SOT)
        if at >= len(out):
            raise ImageError("TRUNCATED", "the JPEG 2000 stream ends inside its header")
        code = int.from_bytes(out[at : at + 2], "big")
        if code == _EOC:
            return bytes(out[: at + 2])
        length = int.from_bytes(out[at + 6 : at + 10], "big")
        _through_header(out, at + 12, stop=_SOD)
        if length == 0:  # the last tile part lasts until the end mark
            return bytes(out)
        if length < 14:
            raise ImageError("CORRUPT", "a JPEG 2000 tile part claims no length")
        at += length
        if at + 2 > len(out):
            return bytes(out)  # no end mark: decoders bear that


def clean_webp(data: bytes) -> bytes:
    """Return a WebP (RFC 9649) with its pixels; Exif shrinks to the orientation, XMP and the rest go."""
    turned, profile, kept = 1, b"", list[tuple[bytes, bytes]]()
    for name, body in _chunks(data[12:]):
        if name == b"EXIF":
            turned = orientation(body.removeprefix(b"Exif\x00\x00"))
        elif name == b"ICCP":
            profile = clean_profile(body) or b""
        elif name == b"ANMF":
            inner = [(n, b) for n, b in _chunks(body[16:]) if n in _WEBP_PIXELS]
            kept.append((name, body[:16] + b"".join(_chunk(*pair) for pair in inner)))
        elif name in _WEBP_PIXELS or name == b"VP8X":
            kept.append((name, body))
    turned = turned if turned in range(2, 9) else 1
    return _webp(kept, turned, profile)


def _webp(kept: list[tuple[bytes, bytes]], turned: int, profile: bytes) -> bytes:
    parts = []
    extended = False
    for name, body in kept:
        if name == b"VP8X":
            extended = True
            flags = body[0] & ~(_ICC_FLAG | _EXIF_FLAG | _XMP_FLAG)
            flags |= _EXIF_FLAG * (turned != 1) | _ICC_FLAG * bool(profile)
            parts.append(_chunk(name, bytes((flags,)) + body[1:10]))
            if profile:
                parts.append(_chunk(b"ICCP", profile))
        else:
            parts.append(_chunk(name, body))
    if extended and turned != 1:
        parts.append(_chunk(b"EXIF", exif_of(turned)))
    whole = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        name, length = struct.unpack("<4sI", data[at : at + 8])
        if at + 8 + length > len(data):
            raise ImageError("TRUNCATED", "the WebP file ends inside a chunk")
        yield name, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def _jp2_box(name: bytes, body: bytes) -> bytes:
    if name in (b"jp2h", b"res "):
        return _box(name, b"".join(_jp2_box(*inner) for inner in _boxes(body)))
    if name == b"jp2c":
        return _box(name, blank_comments(body))
    if name == b"colr":
        return _colour(body)
    return _box(name, body) if name in _JP2 else b""


def _colour(body: bytes) -> bytes:
    if body[:1] == b"\x01":  # a colour space by its number
        return _box(b"colr", body[:7])
    profile = clean_profile(body[3:])
    return b"" if profile is None else _box(b"colr", body[:3] + profile)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        start = at + 8
        if length == 1:
            length = int.from_bytes(data[start : start + 8], "big")
            start += 8
        end = len(data) if length == 0 else at + length
        if end < start or end > len(data):
            raise ImageError("TRUNCATED", "a box is longer than what is left of the file")
        yield name, data[start:end]
        at = end


def _box(name: bytes, body: bytes) -> bytes:
    if len(body) + 8 < 1 << 32:
        return struct.pack(">I4s", len(body) + 8, name) + body
    return struct.pack(">I4sQ", 1, name, len(body) + 16) + body


def _through_header(out: bytearray, at: int, *, stop: int) -> int:
    """Blank the comments of one header; return the place of the marker that ends it."""
    while at + 4 <= len(out):
        code, length = struct.unpack(">HH", out[at : at + 4])
        if code in (stop, _EOC):
            return at
        if code < 0xFF00 or length < 2:
            raise ImageError("CORRUPT", "the JPEG 2000 stream holds no marker where one must stand")
        if code == _COM:
            body = max(0, min(at + 2 + length, len(out)) - (at + 6))
            out[at + 6 : at + 6 + body] = b" " * body
        at += 2 + length
    return at if out[at : at + 2] == b"\xff\xd9" else len(out)
