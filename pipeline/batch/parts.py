"""The rows of a batch under way, journaled: a killed command run again goes on where it stopped."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from data_schemas.document import Document
from pipeline.batch.rows import FAULT, Row
from pipeline.ingest.lines import Lines, begin_lines, first_line, sound_lines, tree_of
from pipeline.ingest.records import SourceFile
from pipeline.ingest.taking import sorted_digests

JOURNAL = "rows"
_SYNC_S = 5.0
_PASSING = {"TIMED_OUT", "DECODER_DIED", "UNREADABLE", FAULT}


class Header(Document):
    """What the rows were made with. Only the same may go on with them."""

    VERSION: ClassVar[int] = 1

    schema_version: int = VERSION
    package_sha256: str
    version: str
    runtime: str
    hilum_version: str
    pixel_makers: str
    evidence: str = ""
    """Folder of the evidence pictures, or empty."""


class Parts:
    """The journal of one batch, and which of its files are done.

    Parameters
    ----------
    folder
        Where the journal lies.
    header
        Another header than the journal's begins it anew; :attr:`anew` says whether it did.
    files
        All files of the batch, in order. Places are unique.
    """

    def __init__(self, folder: Path, header: Header, files: tuple[SourceFile, ...]) -> None:
        self._path = folder / JOURNAL
        found = first_line(self._path)
        tree = header.model_dump(mode="json")
        self.anew = found is not None and found != tree
        if found != tree:
            begin_lines(self._path, [tree])
        self._lines = Lines(self._path)
        self._files = files
        # where each file's line begins; 0, the header's own place: nowhere yet
        self._at: NDArray[np.int64] = np.zeros(len(files), np.int64)
        self._number = {file.place: number for number, file in enumerate(files)}
        self._digests: dict[str, int] = {}
        self._synced = time.monotonic()
        self._resume()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__()

    def _resume(self) -> None:
        start = 0
        for tree, end in sound_lines(self._path):
            number = self._number.get(tree["place"]) if start else None
            if number is not None and _lasting(tree["row"]):
                file = self._files[number]
                if not file.state:
                    # nobody knows whether the file is still the same before it is read
                    self._digests[tree["row"]["source_sha256"]] = start
                elif tree["state"] == _state(file):
                    self._at[number] = start
            start = end

    @property
    def done(self) -> int:
        """How many files have their row."""
        return int(np.count_nonzero(self._at))

    def todo(self) -> Iterator[SourceFile]:
        """Yield the files that have no row yet, in order."""
        for number, file in enumerate(self._files):
            if not self._at[number]:
                yield file

    def known(self) -> NDArray[np.bytes_] | None:
        """Return the digests of files whose rows can be had by their bytes alone, sorted."""
        return sorted_digests(self._digests)

    def add(self, file: SourceFile, row: Row) -> None:
        """Keep a file's row."""
        number = self._number[file.place]
        line = {"place": file.place, "state": _state(file), "row": row}
        self._at[number] = self._lines.append(line)
        if time.monotonic() - self._synced > _SYNC_S:
            self._synced = time.monotonic()
            self._lines.sync()

    def seen(self, file: SourceFile, source_sha256: str) -> Row:
        """Give a file the row of the same bytes, and return it."""
        place = self._digests[source_sha256]
        self._at[self._number[file.place]] = place
        return next(_rows(self._path, [place]))

    def rows(self) -> Iterator[Row]:
        """Yield the rows of all files, in order, each with its file.

        Raises
        ------
        ValueError
            If a file has none.
        """
        for file, row in zip(self._files, _rows(self._path, self._at), strict=True):
            yield {"file": file.place, **row}


def _rows(path: Path, places: Iterable[int]) -> Iterator[Row]:
    # read by place and without the interpreter's own buffering, which every jump would throw away
    handle = os.open(path, os.O_RDONLY)
    try:
        for place in places:
            tree = tree_of(_line_at(handle, int(place))) if place else None
            if tree is None:
                raise ValueError(f"no row begins at byte {place}")
            row: Row = tree["row"]
            yield row
    finally:
        os.close(handle)


def _line_at(handle: int, place: int) -> bytes:
    found, block = b"", 2048
    while True:
        more = os.pread(handle, block, place + len(found))
        end = more.find(b"\n") + 1
        if end or not more:
            return found + more[: end or len(more)]
        found += more


def _state(file: SourceFile) -> str:
    return f"{file.size}:{file.state}" if file.state else ""


def _lasting(row: Mapping[str, Any]) -> bool:
    # what another try may end otherwise is tried again
    return row.get("refusal_code") not in _PASSING and bool(row.get("source_sha256"))
