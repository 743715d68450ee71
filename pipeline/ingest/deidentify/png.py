"""A PNG without texts, times, Exif and unknown chunks; the compressed pixels stay as they are."""

import struct
import zlib

from data_schemas.errors import ImageError
from pipeline.imaging.tiff import orientation
from pipeline.ingest.deidentify.icc import clean_profile
from pipeline.ingest.deidentify.jpeg import exif_of

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_FIXED = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9}
_SMALL = {b"tRNS": 256, b"sBIT": 4, b"bKGD": 6}
_STEP = 1 << 20


def clean_png(data: bytes) -> bytes:
    """Return the PNG (third edition) with its critical chunks and the ancillary ones that show colour.

    Raises
    ------
    ImageError
        TRUNCATED without an end chunk, CORRUPT for an unknown critical chunk.
    """
    kept = [_SIGNATURE]
    pixels: list[bytes] = []
    at = len(_SIGNATURE)
    while True:
        if at + 12 > len(data):
            raise ImageError("TRUNCATED", "the PNG file ends before its end mark")
        length, name = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if len(body) < length:
            raise ImageError("TRUNCATED", "the PNG file ends inside a chunk")
        at += 12 + length
        if name == b"IDAT":
            pixels.append(body)
            continue
        if pixels and pixels[-1]:
            kept += [_chunk(b"IDAT", piece) for piece in _without_tail(pixels)]
            pixels = [b""]  # chunks of pixels stand in one row; later ones are none
        if name == b"IEND":
            return b"".join([*kept, _chunk(b"IEND", b"")])
        kept.append(_kept(name, body))


def _kept(name: bytes, body: bytes) -> bytes:
    if name in _CRITICAL or _FIXED.get(name) == len(body) or len(body) <= _SMALL.get(name, -1):
        return _chunk(name, body)
    if name == b"eXIf":
        turned = orientation(body)
        return _chunk(name, exif_of(turned)) if turned in range(2, 9) else b""
    if name == b"iCCP":
        return _profile(body)
    if not name[0] & 0x20:  # the first letter is a capital: nobody may skip it
        raise ImageError("CORRUPT", "the PNG file holds a critical chunk that is not known")
    return b""


def _profile(body: bytes) -> bytes:
    packed = body.partition(b"\x00")[2][1:]
    stream = zlib.decompressobj()
    try:
        made = clean_profile(stream.decompress(packed, 4 * _STEP))
    except zlib.error:
        return b""
    return b"" if made is None else _chunk(b"iCCP", b"icc\x00\x00" + zlib.compress(made, 9))


def _without_tail(pieces: list[bytes]) -> list[bytes]:
    """Cut what stands behind the end of the compressed pixels, where a decoder doesn't look."""
    stream = zlib.decompressobj()
    kept: list[bytes] = []
    for piece in pieces:
        rest = piece
        try:
            while rest and not stream.eof:
                stream.decompress(rest, _STEP)
                rest = stream.unconsumed_tail
        except zlib.error as error:
            raise ImageError("CORRUPT", "the PNG pixels can't be inflated") from error
        kept.append(piece[: len(piece) - len(stream.unused_data)])
        if stream.eof:
            return kept
    raise ImageError("TRUNCATED", "the PNG pixels end early")


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), name) + body + struct.pack(">I", zlib.crc32(name + body))
