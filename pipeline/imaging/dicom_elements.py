"""Walks the elements of a DICOM data set (PS3.5 7): bounded, and forgiving where writers are known to err.

pydicom converts values; it doesn't find them here. Its parser stops at a wrong VR or an open
sequence, and keeps every element that a hostile file claims to have.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from data_schemas.errors import ImageError
from pipeline.imaging.sniff import VRS

_NAMES = {vr: vr.decode("ascii") for vr in VRS}
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}  # fmt: skip
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_FRAGMENT, _FRAGMENTS_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_TAG_AND_LENGTH = {"little": struct.Struct("<HHI"), "big": struct.Struct(">HHI")}
_SHORT_LENGTH = {"little": struct.Struct("<H"), "big": struct.Struct(">H")}
_FIRST_GROUP = 0x0020
_DEEPEST = 32
_MOST_KEPT = 100_000
_MOST_STEPS = 1_000_000


@lru_cache(maxsize=4096)
def tag_of(number: int) -> BaseTag:
    """Return a tag, the same object each time: a dictionary finds it without comparing."""
    return BaseTag(number)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are written."""

    implicit: bool
    little: bool

    @property
    def order(self) -> Literal["little", "big"]:
        """The byte order's name."""
        return "little" if self.little else "big"


@dataclass(frozen=True, slots=True)
class PixelElement:
    """The element that holds the pixels; its value is a view of the file's bytes, not a copy."""

    keyword: str
    value: memoryview
    vr: str


@dataclass(frozen=True, slots=True, repr=False)
class Walked:
    """What a walk found: elements without the pixels, the pixels, and whether the bytes ended too soon."""

    header: Dataset
    pixels: PixelElement | None
    end: int
    cut: bool


@dataclass(slots=True)
class _Steps:
    """How many elements and items may still be looked at, and how deep: hostile files have no end of them."""

    left: int = _MOST_STEPS
    depth: int = 0

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ImageError("TOO_LARGE", f"the header has more than {_MOST_STEPS} elements")


def guess(data: bytes, at: int, said: Encoding | None) -> Encoding:
    """Return how the data set at ``at`` is written: by its first element, with the syntax as a hint.

    Writers say explicit and write implicit, and the other way around; both can be seen.
    """
    if at + 8 > len(data):
        return said or Encoding(implicit=True, little=True)
    little, big = (int.from_bytes(data[at : at + 2], order) for order in ("little", "big"))
    # the first group of a data set is a small number; read the wrong way around it is a large one
    order = little <= big if said is None else said.little
    if said is not None and min(little, big) <= _FIRST_GROUP < (little if order else big):
        order = not order
    implicit = data[at + 4 : at + 6] not in VRS
    if implicit and (said is None or not said.implicit):
        # one wrong VR makes no implicit file: the length must fit, too, and the next element
        length = int.from_bytes(data[at + 4 : at + 8], "little" if order else "big")
        after = at + 8 + length
        fits = length == _UNDEFINED or after <= len(data)
        implicit = fits and data[after + 4 : after + 6] not in VRS
    return Encoding(implicit, order)


def walk(data: bytes, at: int, encoding: Encoding, *, group: int | None = None) -> Walked:
    """Collect the elements from ``at`` on; values stay bytes until someone asks pydicom for them.

    Parameters
    ----------
    group
        Stop before the first element of another group (the file meta group).

    Raises
    ------
    ImageError
        TOO_LARGE past 100,000 elements, CORRUPT past 32 levels of sequences.
    """
    found: dict[BaseTag, DataElement | RawDataElement] = {}
    pixels: PixelElement | None = None
    cut = False
    implicit, little, size = encoding.implicit, encoding.little, len(data)
    for tag, vr, start, end, following in _elements(data, at, encoding, _Steps(), group):
        name = None if vr is None else _NAMES[vr]
        cut = following > size
        if tag in _PIXELS:
            pixels = pixels or PixelElement(_PIXELS[tag], memoryview(data)[start:end], name or "OW")
        elif cut:
            break  # half a value is none
        elif tag >> 16 != 0xFFFE:
            key = tag_of(tag)
            if key not in found:
                length = end - start
                found[key] = RawDataElement(
                    key, name, length, data[start:end], start, implicit, little
                )
                if len(found) > _MOST_KEPT:
                    raise ImageError("TOO_LARGE", f"the header has more than {_MOST_KEPT} elements")
        at = following
    unreadable = group is None and pixels is None and at + 8 <= len(data)
    return Walked(Dataset(found), pixels, at, cut or unreadable)


def items(header: Dataset, tag: BaseTag) -> list[Dataset]:
    """Return the data sets of a sequence, parsed once; empty if it is missing or no sequence.

    Raises
    ------
    ImageError
        As :func:`walk`.
    """
    element: Any = header.get_item(tag)
    if element is None:
        return []
    if isinstance(element, RawDataElement):
        if element.VR not in (None, "SQ", "UN") or not element.value:
            return []
        parsed = _items(element.value, Encoding(element.is_implicit_VR, element.is_little_endian))
        header[tag] = DataElement(tag, "SQ", Sequence(parsed))
        return parsed
    value = getattr(element, "value", None)
    return list(value) if isinstance(value, Sequence) else []


def _items(value: bytes, encoding: Encoding) -> list[Dataset]:
    parsed: list[Dataset] = []
    if not encoding.little and value.startswith(_FRAGMENT):
        encoding = Encoding(encoding.implicit, little=True)
    for start, end, _ in _spans(value, 0, encoding, _Steps()):
        part = value[start:end]
        implicit = guess(part, 0, encoding).implicit
        parsed.append(walk(part, 0, Encoding(implicit, encoding.little)).header)
    return parsed


def _elements(
    data: bytes, at: int, encoding: Encoding, steps: _Steps, group: int | None = None
) -> Iterator[tuple[int, bytes | None, int, int, int]]:
    """Yield tag, VR, start and end of the value, and the place of the next element."""
    unpack = _TAG_AND_LENGTH[encoding.order].unpack_from
    short = _SHORT_LENGTH[encoding.order].unpack_from
    order, explicit, size = encoding.order, not encoding.implicit, len(data)
    while at + 8 <= size:
        steps.take()
        upper, lower, length = unpack(data, at)
        if group is not None and upper != group:
            return
        tag = upper << 16 | lower
        start, vr = at + 8, None
        if explicit and upper != 0xFFFE:
            vr = data[at + 4 : at + 6]
            if vr in _LONG:
                start, length = at + 12, int.from_bytes(data[at + 8 : at + 12], order)
            elif vr in VRS:
                length = short(data, at + 6)[0]
            else:
                reading = _unknown_vr(data, at, encoding)
                if reading is None:
                    return
                vr, (start, length) = b"UN", reading
        if length == _UNDEFINED and upper != 0xFFFE:
            end, following = _open_value(data, start, (tag, vr), encoding, steps)
        else:
            following = start + length
            end = following if following < size else size
        yield tag, vr, start, end, following
        at = following


def _unknown_vr(data: bytes, at: int, encoding: Encoding) -> tuple[int, int] | None:
    """Return start and length of a value whose VR is none: the reading after which an element may stand."""
    order = encoding.order
    readings = (
        (at + 8, int.from_bytes(data[at + 6 : at + 8], order)),
        (at + 8, int.from_bytes(data[at + 4 : at + 8], order)),
        (at + 12, int.from_bytes(data[at + 8 : at + 12], order)),
    )
    for start, length in readings:
        place = start + length
        if place == len(data):
            return start, length
        if data[place + 4 : place + 6] in VRS:
            return start, length
    return None


def _open_value(
    data: bytes, at: int, kind: tuple[int, bytes | None], encoding: Encoding, steps: _Steps
) -> tuple[int, int]:
    """Return the end of a value of undefined length, and the place after its delimiter."""
    tag, vr = kind
    if tag in _PIXELS:
        return _fragments(data, at)
    if steps.depth >= _DEEPEST:
        raise ImageError("CORRUPT", f"sequences are nested more than {_DEEPEST} deep")
    if vr == b"UN" and data.startswith(_FRAGMENT, at):
        encoding = Encoding(implicit=True, little=True)  # PS3.5 6.2.2, note 5
    end = at
    steps.depth += 1
    for _, _, after in _spans(data, at, encoding, steps):
        end = after
    steps.depth -= 1
    delimiter = _SEQUENCE_END.to_bytes(4, "big")
    if _tag_at(data, end, encoding) == delimiter:
        return end, end + 8
    return end, end


def _spans(
    data: bytes, at: int, encoding: Encoding, steps: _Steps
) -> Iterator[tuple[int, int, int]]:
    """Yield start and end of each item's content, and the place after it, up to what is no item."""
    item = _ITEM.to_bytes(4, "big")
    while at + 8 <= len(data) and _tag_at(data, at, encoding) == item:
        steps.take()
        start = at + 8
        length = int.from_bytes(data[at + 4 : start], encoding.order)
        if length == _UNDEFINED:
            end, at = _open_item(data, start, encoding, steps)
        else:
            at = start + length
            end = min(at, len(data))
        yield start, end, at


def _open_item(data: bytes, at: int, encoding: Encoding, steps: _Steps) -> tuple[int, int]:
    # an item of undefined length: its content's end, and the place after its delimiter
    inner = Encoding(guess(data, at, encoding).implicit, encoding.little)
    for tag, _, _, _, following in _elements(data, at, inner, steps):
        if tag == _ITEM_END:
            return at, following
        if tag in (_SEQUENCE_END, _ITEM):  # the item's own delimiter is missing
            return at, at
        at = following
    return at, at


def _tag_at(data: bytes, at: int, encoding: Encoding) -> bytes:
    # group and element in the order in which they are read
    raw = data[at : at + 4]
    return raw[1::-1] + raw[3:1:-1] if encoding.little else raw


def _fragments(data: bytes, at: int) -> tuple[int, int]:
    # encapsulated pixel data are little endian; an item that is cut off belongs to them
    while data.startswith(_FRAGMENT, at) and at + 8 <= len(data):
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
    if at >= len(data):
        return len(data), len(data) + 1
    return at, at + 8 if data.startswith(_FRAGMENTS_END, at) else at
