"""A JPEG or JPEG-LS stream without what decoding doesn't need: comments, Exif, thumbnails, tails."""

from data_schemas.errors import ImageError
from pipeline.ingest.deidentify.icc import clean_profile

_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_TABLES = frozenset(
    {
        *(code for code in range(0xC0, 0xD0) if code != 0xC8),  # frames, DHT, DAC
        0xDA,  # SOS
        0xDB,  # DQT
        0xDC,  # DNL
        0xDD,  # DRI
        0xF7,  # SOF55 of JPEG-LS
        0xF8,  # LSE of JPEG-LS
    }
)
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_ICC = b"ICC_PROFILE\x00"


def clean_jpeg(data: bytes, *, orientation: int = 1, in_dicom: bool = False) -> bytes:
    """Return the same coefficients in the same bytes, without any other segment.

    Kept: frame headers, tables, scans, JFIF without its thumbnail (T.871), Adobe's colour transform
    and, outside DICOM, the colours of an ICC profile. Everything behind the first end mark goes.

    Parameters
    ----------
    orientation
        What the dropped Exif said; anything but 1 is written as an Exif that says nothing else.

    Raises
    ------
    ImageError
        TRUNCATED without an end mark, CORRUPT if no marker stands where one must.
    """
    kept = [b"\xff\xd8"]
    profile: list[bytes] = []
    at, fill = 2, b""
    while True:
        start = at
        code, at = _marker(data, at)
        fill = b"\xff" * min(at - start - 2, 1)  # CharLS keeps lengths even so
        if code == _END:
            break
        if code in _STANDALONE or code == _START:
            continue
        end = _segment_end(data, at)
        body = data[at + 2 : end]
        segment = _kept(code, body, jfif_allowed=len(kept) == 1)
        kept.append(fill + segment if segment else b"")
        if code == 0xE2 and body.startswith(_ICC):
            profile.append(body)
        at = end
        if code == _SCAN:
            after = _scan_end(data, at)
            kept.append(data[at:after])
            at = after
    extra = b"" if in_dicom else _exif(orientation) + _icc(profile)
    # JFIF has to stand right behind the start
    first = 2 if len(kept) > 1 and kept[1].lstrip(b"\xff").startswith(b"\xe0") else 1
    return b"".join([*kept[:first], extra, *kept[first:], fill, b"\xff\xd9"])


def _kept(code: int, body: bytes, *, jfif_allowed: bool) -> bytes:
    if code in _TABLES:
        return _segment(code, body)
    if code == 0xE0 and body.startswith(b"JFIF\x00") and len(body) >= 14 and jfif_allowed:
        return _segment(code, body[:12] + b"\x00\x00")
    if code == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
        return _segment(code, body[:12])
    if code == 0xE8 and body.startswith(b"mrfx") and len(body) <= 6:
        return _segment(code, body)  # colour transform of HP's JPEG-LS coder
    return b""


def _segment(code: int, body: bytes) -> bytes:
    return bytes((0xFF, code)) + (len(body) + 2).to_bytes(2, "big") + body


def _marker(data: bytes, at: int) -> tuple[int, int]:
    # the next marker's code and the place behind it
    while at + 1 < len(data):
        if data[at] != 0xFF:
            raise ImageError("CORRUPT", "the JPEG stream holds no marker where one must stand")
        if data[at + 1] != 0xFF:
            return data[at + 1], at + 2
        at += 1
    raise ImageError("TRUNCATED", "the JPEG stream has no end mark")


def _segment_end(data: bytes, at: int) -> int:
    length = int.from_bytes(data[at : at + 2], "big")
    if length < 2:
        raise ImageError("CORRUPT", "a JPEG segment claims a negative length")
    if at + length > len(data):
        raise ImageError("TRUNCATED", "the JPEG stream ends inside a segment")
    return at + length


def _scan_end(data: bytes, at: int) -> int:
    """Return where the entropy-coded data end: at a marker that is neither stuffed nor a restart.

    JPEG stuffs a zero byte behind 0xFF, JPEG-LS a zero bit: any byte below 0x80 is data.
    """
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise ImageError("TRUNCATED", "the JPEG stream has no end mark")
        code = data[at + 1]
        if code >= 0x80 and not 0xD0 <= code <= 0xD7:
            return at
        at += 2


def _exif(orientation: int) -> bytes:
    return _segment(0xE1, b"Exif\x00\x00" + exif_of(orientation)) if orientation in range(2, 9) else b""  # fmt: skip


def exif_of(orientation: int) -> bytes:
    """Return the smallest TIFF structure that says an orientation (Exif 2.32, tag 274)."""
    entry = (274).to_bytes(2, "little") + b"\x03\x00\x01\x00\x00\x00" + bytes((orientation, 0, 0, 0))  # fmt: skip
    return b"II*\x00\x08\x00\x00\x00\x01\x00" + entry + bytes(4)


def _icc(parts: list[bytes]) -> bytes:
    # each part: the name, its number from 1, how many there are, and a piece of the profile
    ordered = sorted(parts, key=lambda part: part[len(_ICC)] if len(part) > len(_ICC) else 0)
    made = clean_profile(b"".join(part[len(_ICC) + 2 :] for part in ordered))
    if made is None:
        return b""
    size = 65519
    pieces = [made[k : k + size] for k in range(0, len(made), size)]
    if len(pieces) > 255:
        return b""
    return b"".join(
        _segment(0xE2, _ICC + bytes((number, len(pieces))) + piece)
        for number, piece in enumerate(pieces, start=1)
    )
