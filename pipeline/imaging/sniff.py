"""Tells a file's format from its first bytes, never from its name."""

import struct

from data_schemas.terms import Format

VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)
"""Value representations (PS3.5 6.2)."""

PART10 = slice(128, 132)
_FIRST_GROUPS = (0x0002, 0x0008)
_SIGNATURES: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00\x08\x00", "tiff"),
    (b"MM\x00+\x00\x08", "tiff"),
    (b"\xff\x4f\xff\x51", "jpeg2000"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jpeg2000"),
)


def format_of(data: bytes) -> Format | None:
    """Return the container format of ``data``, or ``None`` when it is none that hilum reads.

    A DICOM object without the 128-byte preamble counts as DICOM only if its first element makes
    sense: a group that may stand first, a known VR or a length that fits the file.
    """
    if data[PART10] == b"DICM":
        return "dicom"
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return "dicom" if _first_element_is_sane(data) else None


def _first_element_is_sane(data: bytes) -> bool:
    if len(data) < 16:
        return False
    for order in ("<", ">"):
        group, element, vr, short = struct.unpack(f"{order}HH2sH", data[:8])
        length = int(short)
        if group not in _FIRST_GROUPS or element > 0x0070:
            continue
        if vr in VRS:
            return length <= len(data)
        if order == "<" and 0 < struct.unpack("<I", data[4:8])[0] <= min(len(data) - 8, 1024):
            return True
    return False
