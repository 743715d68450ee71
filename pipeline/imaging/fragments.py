"""Finds one frame inside encapsulated pixel data (PS3.5 A.4), by item lengths and never by searching."""

import struct
from dataclasses import dataclass

from data_schemas.errors import ImageError
from pipeline.imaging.codestream import STARTS

ITEM = b"\xfe\xff\x00\xe0"
_END = b"\xfe\xff\xdd\xe0"


@dataclass(frozen=True, slots=True, repr=False)
class Frames:
    """The fragments of each frame that was found."""

    groups: list[list[memoryview]]
    cut: bool
    """The last one is not wholly there."""

    def __len__(self) -> int:
        """Return how many frames are wholly there."""
        return len(self.groups) - self.cut

    def frame(self, index: int) -> bytes:
        """Return a frame's bytes, its fragments joined.

        Raises
        ------
        ImageError
            TRUNCATED if the pixel data end before the frame does.
        """
        if index >= len(self):
            raise ImageError("TRUNCATED", f"the pixel data end before frame {index + 1} does")
        return b"".join(self.groups[index])


def split(value: memoryview, frames: int, extended: tuple[int, ...] = ()) -> Frames:
    """Tell the frames of encapsulated pixel data apart.

    Parameters
    ----------
    value
        The value of PixelData: items, the first of them the basic offset table.
    frames
        How many frames the header claims; fewer may be found.
    extended
        The extended offset table (7FE0,0001), if there is one.

    Raises
    ------
    ImageError
        TRUNCATED if there is none at all, CORRUPT if they can't be told apart.
    """
    table, pieces, cut = _items(value)
    if not any(len(piece) for _, piece in pieces):
        raise ImageError("TRUNCATED", "the pixel data hold no frame")
    groups = _groups(pieces, extended or table, frames)
    if groups is None:
        raise ImageError("CORRUPT", f"{frames} frames can't be told apart in {len(pieces)} items")
    return Frames(groups, cut)


def _groups(
    pieces: list[tuple[int, memoryview]], offsets: tuple[int, ...], frames: int
) -> list[list[memoryview]] | None:
    if frames == 1:
        return [[piece for _, piece in pieces]]
    if len(pieces) == frames:
        return [[piece] for _, piece in pieces]
    return _by_offsets(pieces, offsets, frames) or _by_starts(pieces, frames)


def _items(
    value: memoryview,
) -> tuple[tuple[int, ...], list[tuple[int, memoryview]], bool]:
    # the basic offset table, each fragment with its offset from the end of that table's item, and
    # whether the last one is longer than what is left
    pieces: list[tuple[int, memoryview]] = []
    at, cut = 0, False
    while at + 8 <= len(value) and value[at : at + 4] != _END:
        if value[at : at + 4] != ITEM:
            raise ImageError("CORRUPT", "the pixel data hold something that is no item")
        length = int.from_bytes(value[at + 4 : at + 8], "little")
        cut = at + 8 + length > len(value)
        pieces.append((at, value[at + 8 : at + 8 + length]))
        at += 8 + length
    if not pieces:
        return (), [], cut
    first = pieces[0][1]
    table = struct.unpack(f"<{len(first) // 4}I", first[: len(first) // 4 * 4])
    base = 8 + len(first)
    return table, [(place - base, piece) for place, piece in pieces[1:]], cut


def _by_offsets(
    pieces: list[tuple[int, memoryview]], offsets: tuple[int, ...], frames: int
) -> list[list[memoryview]] | None:
    places = {place for place, _ in pieces}
    if (
        len(offsets) != frames
        or list(offsets) != sorted(set(offsets))
        or not places >= set(offsets)
    ):
        return None
    starts = set(offsets)
    groups: list[list[memoryview]] = []
    for place, piece in pieces:
        if place in starts:
            groups.append([])
        if groups:
            groups[-1].append(piece)
    return groups


def _by_starts(pieces: list[tuple[int, memoryview]], frames: int) -> list[list[memoryview]] | None:
    # a frame begins where a codestream begins; without any, each item is a frame
    streams = [bytes(piece[:12]).startswith(STARTS) for _, piece in pieces]
    if not any(streams):
        return [[piece] for _, piece in pieces] if len(pieces) < frames else None
    groups: list[list[memoryview]] = []
    for (_, piece), begins in zip(pieces, streams, strict=True):
        if begins or not groups:
            groups.append([])
        groups[-1].append(piece)
    return groups if len(groups) <= frames else None
