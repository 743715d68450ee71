"""Reads look-up tables from a header: modality, VOI and palette, plain and segmented."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from data_schemas.errors import ImageError
from pipeline.imaging.attributes import values
from pipeline.imaging.instance import Lut

_MOST_ENTRIES = 65536


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
    """Expand segmented data (PS3.3 C.7.9.2): discrete, linear and indirect segments."""
    words = _words(found, bits, little_endian=little_endian) if found else None
    if words is None:
        return None
    out = _Entries()
    at = 0
    while at + 2 <= len(words) and out.count < count:
        kind, length = int(words[at]), int(words[at + 1])
        if kind == 2:
            if at + 4 > len(words):
                return None
            target = int(words[at + 2]) | int(words[at + 3]) << (8 if bits <= 8 else 16)
            if not _copy(words, target, length, out):
                return None
            at += 4
        else:
            step = _segment(words, at, out)
            if step is None:
                return None
            at += step
    return np.concatenate(out.parts)[:count] if out.count >= count else None


class _Entries:
    """Entries expanded so far."""

    def __init__(self) -> None:
        self.parts: list[NDArray[np.uint16]] = []
        self.count = 0

    def add(self, part: NDArray[Any]) -> None:
        if len(part):
            self.parts.append(part.astype(np.uint16))
            self.count += len(part)

    def last(self) -> int:
        return int(self.parts[-1][-1])


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


def _segment(words: NDArray[np.uint16], at: int, out: _Entries) -> int | None:
    # appends one discrete or linear segment, returns how many words it took
    kind, length = int(words[at]), int(words[at + 1])
    if kind == 0:
        out.add(words[at + 2 : at + 2 + length])
        return 2 + length
    if kind == 1 and out.count and at + 2 < len(words):
        start, rise = out.last(), int(words[at + 2]) - out.last()
        if length:
            out.add(np.rint(start + rise * np.arange(1, length + 1) / length))
        return 3
    return None


def _copy(words: NDArray[np.uint16], at: int, segments: int, out: _Entries) -> bool:
    # an indirect segment repeats earlier segments; one that points at another indirect is refused
    for _ in range(segments):
        if out.count > _MOST_ENTRIES or at + 2 > len(words) or words[at] == 2:
            return False
        step = _segment(words, at, out)
        if step is None:
            return False
        at += step
    return True
