"""Converts the plain values of a DICOM element without pydicom: numbers, and text in printable ASCII.

pydicom takes some 10 microseconds for each value, a header needs thirty. What is not plain (other VRs,
other characters, wrong lengths) is left to it; what is converted here equals what pydicom makes of it.
"""

import re
import struct
from collections.abc import Callable

from pydicom.dataelem import RawDataElement

_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
# no backslash, which parts values; no tilde, which some character sets show as an overline
_TEXT = re.compile(rb"[ -\[\]-}]*")
# a name of one group; "=" parts groups, of which pydicom drops empty ones
_NAME = re.compile(rb"[ -<>-\[\]-}]*")
_UID = re.compile(rb"[0-9.]*")
# at most nine digits: pydicom has more to say about longer ones
_WHOLE = re.compile(rb" *[+-]?[0-9]{1,9} *")
_DECIMAL = re.compile(rb" *[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})? *")

Plain = list[str] | list[int] | list[float]


def plain_values(raw: RawDataElement, vr: str) -> Plain | None:
    """Return an element's values, an empty list for none, or ``None`` if pydicom must convert them.

    A decimal string becomes a float, a person's name a str.

    Parameters
    ----------
    vr
        The VR by which it is to be read: the element's own, or the dictionary's.
    """
    value = raw.value
    if not value:
        return []
    form = _NUMBERS.get(vr)
    if form is not None:
        return _numbers(value, form, little=raw.is_little_endian)
    read = _READERS.get(vr)
    return None if read is None else read(value)


def _numbers(value: bytes, form: str, *, little: bool) -> Plain | None:
    count, rest = divmod(len(value), struct.calcsize(form))
    if rest:
        return None
    return list(struct.unpack(f"{'<' if little else '>'}{count}{form}", value))


def _text(value: bytes, allowed: re.Pattern[bytes] = _TEXT) -> Plain | None:
    if not allowed.fullmatch(value):
        return None
    found = value.decode("ascii").rstrip(" ")
    return [found] if found else []


def _name(value: bytes) -> Plain | None:
    return _text(value, _NAME)


def _uid(value: bytes) -> Plain | None:
    bare = value.rstrip(b"\0 ")
    if not _UID.fullmatch(bare):
        return None
    return [bare.decode("ascii")] if bare else []


def _whole(value: bytes) -> Plain | None:
    parts = value.split(b"\\")
    return [int(part) for part in parts] if all(map(_WHOLE.fullmatch, parts)) else None


def _decimal(value: bytes) -> Plain | None:
    parts = value.split(b"\\")
    return [float(part) for part in parts] if all(map(_DECIMAL.fullmatch, parts)) else None


_READERS: dict[str, Callable[[bytes], Plain | None]] = {
    "CS": _text, "LO": _text, "SH": _text, "PN": _name, "UI": _uid, "IS": _whole, "DS": _decimal,
}  # fmt: skip
