"""Prepared arrays on disk in the order they were taken, until it is known which of them stay."""

import os
from pathlib import Path
from typing import Self

from data_schemas.files import sha256


class Spool:
    """A file of equally long arrays that only grows. What was added survives the process's death."""

    def __init__(self, path: Path, image_bytes: int) -> None:
        self._image_bytes = image_bytes
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self.rows = os.fstat(self._file).st_size // image_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def add(self, pixels: bytes) -> int:
        """Append one array and return its row."""
        rest, place = memoryview(pixels), self.rows * self._image_bytes
        while rest:
            written = os.pwrite(self._file, rest, place)
            rest, place = rest[written:], place + written
        self.rows += 1
        return self.rows - 1

    def read(self, row: int) -> bytes:
        """Return the array of a row."""
        return os.pread(self._file, self._image_bytes, row * self._image_bytes)

    def holds(self, row: int, pixel_sha256: str) -> bool:
        """Tell whether a row is there and holds the array of this digest."""
        return row < self.rows and sha256(self.read(row)) == pixel_sha256

    def cut(self, rows: int) -> None:
        """Forget everything after the first ``rows`` arrays."""
        os.ftruncate(self._file, rows * self._image_bytes)
        self.rows = rows

    def sync(self) -> None:
        """Wait until everything is on the disk itself."""
        os.fsync(self._file)
