"""Lines that begin with their own CRC-32: a file of them survives the death of whoever appends to it."""

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

_COMPACT = json.JSONEncoder(separators=(",", ":"))


def line_of(tree: dict[str, Any]) -> bytes:
    """Return one line: the CRC-32 of its JSON in eight hex digits, a space, the JSON, a line feed."""
    text = _COMPACT.encode(tree).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def tree_of(line: bytes) -> dict[str, Any] | None:
    """Return what a line holds; None if it is torn."""
    mark, _, text = line[:-1].partition(b" ")
    if not line.endswith(b"\n") or mark != b"%08x" % zlib.crc32(text):
        return None
    tree: dict[str, Any] = json.loads(text)
    return tree


def sound_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield every line up to the first that is torn, and where it ends."""
    end = 0
    with path.open("rb") as stream:
        for line in stream:
            tree = tree_of(line)
            if tree is None:
                return
            end += len(line)
            yield tree, end


def first_line(path: Path) -> dict[str, Any] | None:
    """Return what a file's first line holds; None if there is no file, or the line is torn."""
    try:
        with path.open("rb") as stream:
            return tree_of(stream.readline())
    except (OSError, ValueError):
        return None


def begin_lines(path: Path, trees: Iterable[dict[str, Any]]) -> None:
    """Write a new file of lines; it appears whole."""
    part = path.with_name(f"{path.name}.new")
    with part.open("wb") as stream:
        for tree in trees:
            stream.write(line_of(tree))
    part.replace(path)


class Lines:
    """A file of lines, open for reading and appending; what is torn at its end is cut off.

    Parameters
    ----------
    path
        A file that :func:`begin_lines` wrote.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR)
        self._end = 0
        for _, self._end in sound_lines(path):
            pass
        os.ftruncate(self._file, self._end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def append(self, tree: dict[str, Any]) -> int:
        """Write one line and return its place in the file."""
        place = at = self._end
        rest = memoryview(line_of(tree))
        while rest:
            written = os.pwrite(self._file, rest, at)
            rest, at = rest[written:], at + written
        self._end = at
        return place

    def sync(self) -> None:
        """Wait until everything is on the disk itself."""
        os.fsync(self._file)
