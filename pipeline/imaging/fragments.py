"""Finds one frame inside encapsulated pixel data (PS3.5 A.4), by item lengths and never by searching."""

import struct

from data_schemas.errors import ImageError
from pipeline.imaging.codestream import STARTS

ITEM = b"\xfe\xff\x00\xe0"
_END = b"\xfe\xff\xdd\xe0"


def frame_of(value: bytes, frames: int, index: int, extended: tuple[int, ...] = ()) -> bytes:
    """Return the bytes of frame ``index``, its fragments joined.

    Parameters
    ----------
    value
        The value of PixelData: items, the first of them the basic offset table.
    frames
        How many frames the header claims.
    extended
        The extended offset table (7FE0,0001), if there is one.

    Raises
    ------
    ImageError
        TRUNCATED if the items end early, CORRUPT if the frame can't be found.
    """
    table, pieces = _items(value)
    if not pieces or not any(piece for _, piece in pieces):
        raise ImageError("TRUNCATED", "the pixel data hold no frame")
    if frames == 1:
        return b"".join(piece for _, piece in pieces)
    if len(pieces) == frames:
        return pieces[index][1]
    groups = _by_offsets(pieces, extended or table, frames) or _by_starts(pieces, frames)
    if groups is None:
        raise ImageError("CORRUPT", f"{frames} frames can't be told apart in {len(pieces)} items")
    return b"".join(groups[index])


def _items(value: bytes) -> tuple[tuple[int, ...], list[tuple[int, bytes]]]:
    # the basic offset table, and each fragment with its offset from the end of that table's item
    pieces: list[tuple[int, bytes]] = []
    at = 0
    while at + 8 <= len(value) and value[at : at + 4] != _END:
        if value[at : at + 4] != ITEM:
            raise ImageError("CORRUPT", "the pixel data hold something that is no item")
        length = int.from_bytes(value[at + 4 : at + 8], "little")
        if at + 8 + length > len(value):
            raise ImageError("TRUNCATED", "an item of the pixel data is longer than what is left")
        pieces.append((at, value[at + 8 : at + 8 + length]))
        at += 8 + length
    if not pieces:
        return (), []
    first = pieces[0][1]
    table = struct.unpack(f"<{len(first) // 4}I", first[: len(first) // 4 * 4])
    base = 8 + len(first)
    return table, [(place - base, piece) for place, piece in pieces[1:]]


def _by_offsets(
    pieces: list[tuple[int, bytes]], offsets: tuple[int, ...], frames: int
) -> list[list[bytes]] | None:
    places = {place for place, _ in pieces}
    if (
        len(offsets) != frames
        or list(offsets) != sorted(set(offsets))
        or not places >= set(offsets)
    ):
        return None
    ends = [*offsets[1:], float("inf")]
    return [
        [piece for place, piece in pieces if start <= place < end]
        for start, end in zip(offsets, ends, strict=True)
    ]


def _by_starts(pieces: list[tuple[int, bytes]], frames: int) -> list[list[bytes]] | None:
    groups: list[list[bytes]] = []
    for _, piece in pieces:
        if piece.startswith(STARTS) or not groups:
            groups.append([])
        groups[-1].append(piece)
    return groups if len(groups) == frames else None
