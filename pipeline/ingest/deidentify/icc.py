"""An ICC profile without its texts: the colours stay, the description and everything unknown go."""

import struct

_HEADER = 128
_COLOUR_TAGS = frozenset(
    b"wtpt bkpt rXYZ gXYZ bXYZ rTRC gTRC bTRC kTRC chad lumi A2B0 A2B1 A2B2 B2A0 B2A1 B2A2".split()
)
_COLOUR_TYPES = (b"XYZ ", b"curv", b"para", b"sf32", b"mft1", b"mft2", b"mAB ", b"mBA ")
_MOST_TAGS = 200


def clean_profile(profile: bytes) -> bytes | None:
    """Return a profile with the colour tags of ``profile`` only; ``None`` if it can't be read.

    ICC.1:2010, 7.2 (header), 7.3 (tag table). Description and copyright, which a profile must have,
    are written anew; the creator, the date, the device's maker and the profile's ID become zero.
    """
    if len(profile) < _HEADER + 4 or profile[36:40] != b"acsp":
        return None
    count = struct.unpack(">I", profile[_HEADER : _HEADER + 4])[0]
    if count > _MOST_TAGS or len(profile) < _HEADER + 4 + 12 * count:
        return None
    tags = {b"desc": _described(profile[8]), b"cprt": _text(profile[8])}
    for place in range(_HEADER + 4, _HEADER + 4 + 12 * count, 12):
        name, start, length = struct.unpack(">4sII", profile[place : place + 12])
        body = profile[start : start + length]
        if name in _COLOUR_TAGS and body[:4] in _COLOUR_TYPES and len(body) == length:
            tags[name] = body
    return _written(profile, tags)


def _written(profile: bytes, tags: dict[bytes, bytes]) -> bytes:
    at = _HEADER + 4 + 12 * len(tags)
    table, bodies = struct.pack(">I", len(tags)), b""
    for name, body in sorted(tags.items()):
        table += struct.pack(">4sII", name, at + len(bodies), len(body))
        bodies += body + bytes(-len(body) % 4)
    head = bytearray(_HEADER)
    head[8:24] = profile[8:24]  # version, class, colour space, connection space
    head[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    head[36:40] = b"acsp"
    head[64:80] = profile[64:80]  # intent and illuminant
    head[0:4] = struct.pack(">I", at + len(bodies))
    return bytes(head) + table + bodies


def _described(version: int) -> bytes:
    if version >= 4:
        return _text(version)
    words = b"colour profile\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(words)) + words + bytes(78)


def _text(version: int) -> bytes:
    if version < 4:
        return b"text\0\0\0\0none\0"
    words = "none".encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(words), 28) + words
