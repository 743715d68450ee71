"""Reads the directories of a TIFF or Exif structure: sizes and orientation, before anything is decoded."""

import struct
from dataclasses import dataclass

from data_schemas.errors import ImageError

_SUBFILE, _WIDTH, _HEIGHT, _PHOTOMETRIC, _ORIENTATION, _SAMPLES = 254, 256, 257, 262, 274, 277
_SIZES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MOST_DIRECTORIES = 10_000


@dataclass(frozen=True, slots=True)
class Page:
    """The facts of one page."""

    rows: int
    columns: int
    samples: int
    photometric: int
    orientation: int
    index: int
    """Its place among all directories, reduced ones too: how a decoder counts."""


def pages(data: bytes) -> tuple[Page, ...]:
    """Read the directories of TIFF or BigTIFF bytes, which follow one another; always one or more.

    A later directory that holds a reduced picture of another (TIFF 6.0, tag 254, bit 0) is no page.

    Raises
    ------
    ImageError
        CORRUPT or TRUNCATED if there is none.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        raise ImageError("CORRUPT", "the TIFF header is wrong")
    big = struct.unpack(f"{order}H", data[2:4])[0] == 43
    at = struct.unpack(f"{order}Q", data[8:16].ljust(8, b"\0"))[0] if big else struct.unpack(f"{order}I", data[4:8])[0]  # fmt: skip
    tags, following = _tags(data, at, order, big=big)
    found, seen = [_page(tags, 0)], {at}
    while following and following not in seen and len(seen) < _MOST_DIRECTORIES:
        seen.add(following)
        try:
            tags, following = _tags(data, following, order, big=big)
        except ImageError:
            break  # what follows the first page is not needed
        if not tags.get(_SUBFILE, 0) & 1:
            found.append(_page(tags, len(seen) - 1))
    return tuple(found)


def _page(tags: dict[int, int], index: int) -> Page:
    return Page(
        rows=tags.get(_HEIGHT, 0),
        columns=tags.get(_WIDTH, 0),
        samples=tags.get(_SAMPLES, 1),
        photometric=tags.get(_PHOTOMETRIC, 1),
        orientation=tags.get(_ORIENTATION, 1),
        index=index,
    )


def orientation(exif: bytes) -> int:
    """Return the orientation 1..8 of an Exif structure (tag 274), 1 if it says none."""
    if not exif:
        return 1
    try:
        return pages(exif)[0].orientation
    except ImageError:
        return 1


def _tags(data: bytes, at: int, order: str, *, big: bool) -> tuple[dict[int, int], int]:
    count_form, entry, word = ("Q", 20, "Q") if big else ("H", 12, "I")
    count_size, word_size = struct.calcsize(count_form), struct.calcsize(word)
    if at + count_size > len(data):
        raise ImageError("TRUNCATED", "the TIFF file ends before its directory")
    count = struct.unpack_from(f"{order}{count_form}", data, at)[0]
    start = at + count_size
    end = start + count * entry
    if end + word_size > len(data):
        # Exif writers leave the last offset out; a missing entry is another matter
        if end > len(data):
            raise ImageError("TRUNCATED", "the TIFF file ends inside its directory")
        following = 0
    else:
        following = struct.unpack_from(f"{order}{word}", data, end)[0]
    found: dict[int, int] = {}
    for place in range(start, end, entry):
        tag, kind = struct.unpack_from(f"{order}HH", data, place)
        form = _SIZES.get(kind)
        if form is not None:
            value_at = place + (12 if big else 8)
            found.setdefault(tag, struct.unpack_from(f"{order}{form}", data, value_at)[0])
    return found, following
