"""Prepared arrays on disk in the order they were taken, until it is known which of them stay.

The spool is a few segments: every process that takes images appends to a file of its own, so that pixels
pass through no pipe. A row is a segment's number and a place in it. Nobody appends to a segment that
another process began, not even after its death: a worker that outlives a killed parent for a moment
can spoil nothing.
"""

import os
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

from data_schemas.files import sha256

_PLACES = 32
"""Bits of a row that count arrays within a segment."""
_OPEN_AT_ONCE = 32


class Segment:
    """A new file of equally long arrays that one process appends to. What was added survives its death."""

    def __init__(self, folder: Path) -> None:
        self.number = max(_numbers(folder), default=-1) + 1
        while True:
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                self._file = os.open(segment_path(folder, self.number), flags, 0o644)
                break
            except FileExistsError:  # another process was faster
                self.number += 1
        self._rows = 0

    def add(self, pixels: bytes | memoryview) -> int:
        """Append one array and return its row."""
        rest, place = memoryview(pixels), self._rows * len(pixels)
        while rest:
            written = os.pwrite(self._file, rest, place)
            rest, place = rest[written:], place + written
        self._rows += 1
        return self.number << _PLACES | (self._rows - 1)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class Spool:
    """All segments in a folder: for reading, and a segment of this process's own where it needs one."""

    def __init__(self, folder: Path, image_bytes: int) -> None:
        self._folder = folder
        self._image_bytes = image_bytes
        self._own: Segment | None = None
        self._open: OrderedDict[int, int] = OrderedDict()
        self._fresh: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            self._own.close()
        while self._open:
            os.close(self._open.popitem()[1])

    def add(self, pixels: bytes) -> int:
        """Append one array and return its row."""
        if self._own is None:
            self._own = Segment(self._folder)
        return self.note(self._own.add(pixels))

    def note(self, row: int) -> int:
        """Take notice of a row that another process added; return it."""
        self._fresh.add(row >> _PLACES)
        return row

    def read(self, row: int) -> bytes:
        """Return the array of a row; fewer bytes if it isn't there."""
        place = (row & (1 << _PLACES) - 1) * self._image_bytes
        return os.pread(self._file(row >> _PLACES), self._image_bytes, place)

    def _file(self, number: int) -> int:
        # decoders that die leave a segment each: not all of them may be open at once
        if number in self._open:
            self._open.move_to_end(number)
        else:
            if len(self._open) >= _OPEN_AT_ONCE:
                os.close(self._open.popitem(last=False)[1])
            self._open[number] = os.open(segment_path(self._folder, number), os.O_RDONLY)
        return self._open[number]

    def holds(self, row: int, pixel_sha256: str) -> bool:
        """Tell whether a row is there and holds the array of this digest."""
        with suppress(FileNotFoundError):
            return sha256(self.read(row)) == pixel_sha256
        return False

    def cut(self, rows: Iterable[int]) -> None:
        """Forget everything after the last of these rows in each segment."""
        kept: dict[int, int] = {}
        for row in rows:
            number, place = row >> _PLACES, row & (1 << _PLACES) - 1
            kept[number] = max(kept.get(number, 0), place + 1)
        for number in _numbers(self._folder):
            path = segment_path(self._folder, number)
            if number in kept:
                os.truncate(path, kept[number] * self._image_bytes)
            else:
                path.unlink()

    def fresh(self) -> list[Path]:
        """Return the segments that grew since the last call."""
        paths = [segment_path(self._folder, number) for number in self._fresh]
        self._fresh.clear()
        return paths


def sync(paths: Iterable[Path]) -> None:
    """Wait until files are on the disk itself."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def segment_path(folder: Path, number: int) -> Path:
    """Return where a segment lies."""
    return folder / f"pixels-{number:05d}.spool"


def _numbers(folder: Path) -> list[int]:
    return [int(path.stem.partition("-")[2]) for path in folder.glob("pixels-*.spool")]
