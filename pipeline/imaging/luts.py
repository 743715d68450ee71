"""Reads look-up tables from a header: modality, VOI and palette, plain and segmented."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from data_schemas.errors import ImageError
from pipeline.imaging.attributes import values
from pipeline.imaging.instance import Lut

_MOST_ENTRIES = 65536
_DISCRETE, _LINEAR, _INDIRECT = 0, 1, 2


def lut(table: Dataset, *, signed: bool, little_endian: bool) -> Lut | None:
    """Return a Modality or VOI LUT (PS3.3 C.11.1, C.11.2), or ``None`` if it can't be used."""
    described = _descriptor(table, "LUTDescriptor", signed=signed)
    if described is None:
        return None
    count, first, bits = described
    entries = _entries(table, "LUTData", count, little_endian=little_endian)
    if entries is None:
        return None
    top = float(max((1 << bits) - 1, int(entries.max())))
    return Lut(first, entries.astype(np.float64), top)


def palette(header: Dataset, *, little_endian: bool) -> tuple[int, NDArray[np.uint8]]:
    """Return the first mapped value and the colours [entries, 3] of a PALETTE COLOR header.

    Raises
    ------
    ImageError
        CORRUPT if one of the three tables is missing or wrong.
    """
    columns: list[NDArray[np.uint8]] = []
    first = 0
    for colour in ("Red", "Green", "Blue"):
        described = _descriptor(header, f"{colour}PaletteColorLookupTableDescriptor", signed=False)
        if described is None:
            raise ImageError("CORRUPT", f"the palette has no usable {colour.lower()} descriptor")
        count, first, bits = described
        name = f"{colour}PaletteColorLookupTableData"
        entries = _entries(header, name, count, little_endian=little_endian)
        if entries is None:
            segments = values(header, f"Segmented{name}")
            entries = _expand(segments, count, bits, little_endian=little_endian)
        if entries is None:
            raise ImageError("CORRUPT", f"the palette has no usable {colour.lower()} table")
        # a depth of 16 is the rule; some writers say 16 and store 8-bit colours all the same
        deep = bits > 8 or int(entries.max()) > 255
        columns.append((entries >> 8 if deep else entries).astype(np.uint8))
    return first, np.stack(columns, axis=1)


def _descriptor(table: Dataset, keyword: str, *, signed: bool) -> tuple[int, int, int] | None:
    found = values(table, keyword)
    if len(found) != 3:
        return None
    try:
        count, first, bits = (int(value) for value in found)
    except (TypeError, ValueError):
        return None
    count = count % _MOST_ENTRIES or _MOST_ENTRIES  # 0 means 65536
    if signed and first >= 1 << 15:
        first -= 1 << 16
    return (count, first, bits) if 1 <= bits <= 16 else None


def _entries(
    table: Dataset, keyword: str, count: int, *, little_endian: bool
) -> NDArray[Any] | None:
    found = values(table, keyword)
    if not found:
        return None
    if isinstance(found[0], bytes):
        # the width comes from the length: writers pack 8-bit entries or store them as words
        width = 2 if len(found[0]) >= 2 * count else 1
        kind = f"{'<' if little_endian else '>'}u{width}"
        usable = len(found[0]) // width * width
        entries = np.frombuffer(found[0][:usable], kind)
    else:
        words = _sixteen_bits(found)
        if words is None:
            return None
        entries = words
        if len(entries) * 2 in (count, count + 1) and len(entries) < count:
            entries = entries.astype("<u2").view(np.uint8)  # two 8-bit entries in a word
    return entries[:count] if len(entries) >= count else None


def _expand(found: list[Any], count: int, bits: int, *, little_endian: bool) -> NDArray[Any] | None:
    """Expand segmented data (PS3.3 C.7.9.2): discrete, linear and indirect segments.

    The segments are only noted one by one, and expanded together: there are thousands of them.
    """
    words = _words(found, bits, little_endian=little_endian) if found else None
    if words is None:
        return None
    plan = _Segments(words.tolist(), 8 if bits <= 8 else 16)
    at = 0
    while plan.count < count and at + 2 <= len(words):
        step = plan.note(at)
        if step is None:
            return None
        at += step
    return plan.expanded(words)[:count] if plan.count >= count else None


class _Segments:
    """Segments noted so far: how many entries each gives, and from where."""

    def __init__(self, words: list[int], shift: int) -> None:
        self.count = 0
        self._words, self._shift = words, shift
        self._lengths: list[int] = []
        self._places: list[int] = []
        """Where a discrete segment's values begin, or a linear one's end value stands."""
        self._starts: list[int] = []
        """The value before a linear segment; -1 for a discrete one."""
        self._last = 0

    def note(self, at: int) -> int | None:
        """Note the segment at ``at``; return how many words it takes, or ``None`` if it is wrong."""
        if self._words[at] != _INDIRECT:
            return self._direct(at)
        if at + 4 > len(self._words):
            return None
        target = self._words[at + 2] | self._words[at + 3] << self._shift
        # it repeats earlier segments; one that points at another indirect is refused
        for _ in range(self._words[at + 1]):
            if self.count > _MOST_ENTRIES or target + 2 > len(self._words):
                return None
            step = self._direct(target)
            if step is None:
                return None
            target += step
        return 4

    def expanded(self, words: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Return all entries."""
        lengths = np.array(self._lengths)
        within = np.arange(self.count) - np.repeat(lengths.cumsum() - lengths, lengths)
        starts, places = np.array(self._starts), np.array(self._places)
        ends = words[places].astype(np.int64)
        is_line = np.repeat(starts >= 0, lengths)
        line = np.rint(
            np.repeat(starts, lengths)
            + np.repeat(ends - starts, lengths) * (within + 1) / np.repeat(lengths, lengths)
        )
        plain = words[np.where(is_line, 0, np.repeat(places, lengths) + within)]
        return np.where(is_line, line, plain).astype(np.uint16)

    def _direct(self, at: int) -> int | None:
        words = self._words
        kind, length = words[at], words[at + 1]
        if kind == _DISCRETE:
            there = min(length, len(words) - at - 2)
            if there > 0:
                self._add(there, at + 2, -1, words[at + 1 + there])
            return 2 + length
        if kind == _LINEAR and self.count and at + 2 < len(words):
            if length:
                self._add(length, at + 2, self._last, words[at + 2])
            return 3
        return None

    def _add(self, length: int, place: int, start: int, last: int) -> None:
        self._lengths.append(length)
        self._places.append(place)
        self._starts.append(start)
        self.count += length
        self._last = last


def _words(found: list[Any], bits: int, *, little_endian: bool) -> NDArray[np.uint16] | None:
    if isinstance(found[0], bytes):
        kind = "u1" if bits <= 8 else f"{'<' if little_endian else '>'}u2"
        usable = found[0][: len(found[0]) // 2 * 2] if bits > 8 else found[0]
        return np.frombuffer(usable, kind).astype(np.uint16)
    return _sixteen_bits(found)


def _sixteen_bits(found: list[Any]) -> NDArray[np.uint16] | None:
    # as they come from the parser: numbers, or whatever a broken header gave
    try:
        return (np.array(found).astype(np.int64) & 0xFFFF).astype(np.uint16)
    except (TypeError, ValueError, OverflowError):
        return None
