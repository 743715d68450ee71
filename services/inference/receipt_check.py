"""Reads a receipt log: finds every edit, gap, cut and reordering in it, or one receipt by its id."""

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_schemas.errors import HilumError, UsageError
from data_schemas.receipt import FIRST, Key, Line, Receipt, parse_line, seal_fits
from services.inference.receipt_files import (
    HEAD,
    HEAD_BYTES,
    LOCK,
    files_of,
    first_number,
    locked,
    read_head,
)

MOST_FAULTS = 10_000
"""After so many faults the rest isn't listed: the log is something else altogether."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing that is wrong: where, what kind, and a sentence."""

    file: str
    line: int
    kind: str
    what: str

    def __str__(self) -> str:
        """Return ``file:line: kind: what``."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.kind}: {self.what}"


@dataclass(slots=True)
class Verdict:
    """What a verification found."""

    flaws: list[Flaw] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0
    lines: int = 0
    receipts: int = 0
    sealed: int = 0
    last: int = -1
    digest: str = FIRST

    def add(self, flaw: Flaw) -> None:
        """Add a flaw, up to :data:`MOST_FAULTS`."""
        if len(self.flaws) < MOST_FAULTS:
            self.flaws.append(flaw)


def verify_log(
    log: Path, *, keys: Sequence[Key] = (), anchors: Mapping[int, str] | None = None
) -> Verdict:
    """Verify a log.

    Parameters
    ----------
    log
        The folder, or one of its files. Of a lone file it can't be told whether others are missing.
    keys
        If given, every line must carry the seal of one of them, from the first sealed line on.
    anchors
        Line number -> digest, kept elsewhere. Each must be in the log; lines before the first one
        may be missing, if the log begins right after it.

    Raises
    ------
    UsageError
        If there is no log.
    """
    check = _Check(keys, dict(anchors or {}))
    if log.is_file():
        check.verdict.notes.append(
            "one file alone: nothing is said about what was before and after"
        )
        check.file(log, log.stat().st_size, alone=True)
    elif log.is_dir() and (files_of(log) or (log / HEAD).exists()):
        sizes, head = _as_of_now(log)
        check.expect(head)
        for path, size in sizes:
            check.file(path, size)
        check.head(log, head)
    else:
        raise UsageError("holds no receipt log", where=log, mend="name the folder, or a file of it")
    check.ends()
    return check.verdict


def find_receipt(log: Path, score_id: str) -> tuple[Receipt, str, int]:
    """Return the receipt of a score, and the file and line where it stands.

    Raises
    ------
    UsageError
        If there is none.
    HilumError
        If its line was altered.
    """
    paths = files_of(log) if log.is_dir() else [log]
    wanted = f'"score_id":"{score_id}"'.encode()
    for path in paths:
        for number, data in enumerate(_lines(path, path.stat().st_size), start=1):
            if wanted not in data:
                continue
            line = parse_line(data.rstrip(b"\n"))
            where = f"{path}:{number}"
            if line is None or not line.whole:
                raise HilumError("was altered: its digest isn't that of its bytes", where=where)
            if line.tree.get("score_id") == score_id:
                return line.receipt(where=where), str(path), number
    raise UsageError(f"no receipt of the score {score_id}", where=log)


def _as_of_now(log: Path) -> tuple[list[tuple[Path, int]], bytes | None]:
    # a service may be writing: how far to read is noted while it can't
    def noted() -> tuple[list[tuple[Path, int]], bytes | None]:
        # the head first: what it names was in the files before
        head = (log / HEAD).read_bytes() if (log / HEAD).exists() else None
        return [(path, path.stat().st_size) for path in files_of(log)], head

    try:
        with (log / LOCK).open("rb") as lock, locked(lock.fileno(), fcntl.LOCK_SH):
            return noted()
    except OSError:
        return noted()


def _lines(path: Path, size: int) -> Iterator[bytes]:
    left = size
    with path.open("rb") as stream:
        for data in stream:
            if left <= 0:
                return
            yield data[:left]
            left -= len(data)


class _Check:
    """Walks through the lines and keeps what the next one must name."""

    def __init__(self, keys: Sequence[Key], anchors: dict[int, str]) -> None:
        self.verdict = Verdict()
        self._keys = keys
        self._anchors = anchors
        self._met: set[int] = set()
        self._head_number: int | None = None
        self._at_head = FIRST

    def expect(self, head: bytes | None) -> None:
        """Note which line the head names, before it passes by."""
        line = parse_line((head or b"").rstrip(b" \n"))
        self._head_number = None if line is None else line.number

    def file(self, path: Path, size: int, *, alone: bool = False) -> None:
        """Check the lines of one file."""
        found = self.verdict
        found.files += 1
        named = first_number(path.name)
        number = 0
        for number, data in enumerate(_lines(path, size), start=1):
            if not data.endswith(b"\n"):
                found.add(Flaw(str(path), number, "torn", "the line doesn't end"))
            found.lines += 1
            line = parse_line(data[:-1])
            if line is None:
                found.add(Flaw(str(path), number, "edited", "is no line of a receipt log"))
                continue
            if number == 1:
                self._first(path, line, named, alone=alone)
            self._line(str(path), number, line, data[:-1])
        if number == 0 and named is not None and named != found.last + 1:
            found.add(Flaw(str(path), 0, "gap", f"its name says that line {named} begins it"))

    def _first(self, path: Path, line: Line, named: int | None, *, alone: bool) -> None:
        found = self.verdict
        if named is not None and named != line.number:
            what = f"its name says {named}, its first line is {line.number}"
            found.add(Flaw(str(path), 1, "reordered", what))
        if found.lines != 1 or (line.number, line.previous) == (0, FIRST):
            return
        if self._anchors.get(line.number - 1) == line.previous:
            found.notes.append(f"begins after line {line.number - 1}, which an anchor names")
            self._met.add(line.number - 1)
        elif not alone:
            return
        # what came before is taken as given
        found.last, found.digest = line.number - 1, line.previous

    def _line(self, file: str, at: int, line: Line, data: bytes) -> None:
        found = self.verdict
        if not line.whole:
            what = f"line {line.number} isn't what was written: its digest is another"
            found.add(Flaw(file, at, "edited", what))
        if line.number > found.last + 1:
            missing = f"{found.last + 1}"
            missing += f" to {line.number - 1}" if line.number > found.last + 2 else ""
            found.add(Flaw(file, at, "gap", f"missing before line {line.number}: {missing}"))
        elif line.number <= found.last:
            what = f"line {line.number} stands after line {found.last}"
            found.add(Flaw(file, at, "reordered", what))
        elif line.previous != found.digest:
            what = f"line {line.number} doesn't follow from the line before it, one was replaced"
            found.add(Flaw(file, at, "edited", what))
        if line.tree.get("schema_version") != Receipt.VERSION:
            what = f"schema_version is {line.tree.get('schema_version')!r}, this hilum reads 1"
            found.add(Flaw(file, at, "unknown", what))
        self._seal(file, at, line, data)
        if line.number in self._anchors:
            self._met.add(line.number)
            if self._anchors[line.number] != line.digest:
                what = f"line {line.number} is another one than its anchor names"
                found.add(Flaw(file, at, "edited", what))
        found.receipts += line.kind == "receipt"
        if line.kind == "mended":
            found.notes.append(_mending(file, at, line))
        if line.number == self._head_number:
            self._at_head = line.digest
        found.last, found.digest = line.number, line.digest

    def _seal(self, file: str, at: int, line: Line, data: bytes) -> None:
        if not self._keys:
            return
        found = self.verdict
        if seal_fits(data, self._keys):
            found.sealed += 1
        elif found.sealed or line.tree.get("seal"):
            what = f"line {line.number} doesn't carry the seal of a key given"
            found.add(Flaw(file, at, "unsealed", what))

    def head(self, log: Path, data: bytes | None) -> None:
        """Check the head: how far the log surely was on disk."""
        found, where = self.verdict, str(log / HEAD)
        if data is None:
            found.add(Flaw(where, 0, "cut", "is missing, so a cut end could not be told"))
            return
        try:
            head = read_head(data, log / HEAD)
        except HilumError:
            found.add(Flaw(where, 1, "edited", "isn't what was written"))
            return
        if data != data.rstrip(b" \n").ljust(HEAD_BYTES - 1) + b"\n":
            found.add(Flaw(where, 1, "edited", "isn't what was written"))
        if self._keys and not seal_fits(data.rstrip(b" \n"), self._keys):
            found.add(Flaw(where, 1, "unsealed", "doesn't carry the seal of a key given"))
        if head.number > found.last:
            what = f"the log ends with line {found.last}, line {head.number} had been written"
            found.add(Flaw(str(log), 0, "cut", what))
        elif self._at_head != head.previous:
            what = f"names another line {head.number} than the log holds"
            found.add(Flaw(where, 1, "edited", what))

    def ends(self) -> None:
        """Check what only the end shows: anchors that were not met, seals that nothing carries."""
        found = self.verdict
        for number in sorted(set(self._anchors) - self._met):
            if number > found.last:
                what = f"line {number}, which an anchor names, isn't in the log"
                found.add(Flaw("anchors", 0, "cut", what))
        if self._keys and found.lines and not found.sealed:
            found.add(Flaw("log", 0, "unsealed", "no line carries the seal of a key given"))


def _mending(file: str, at: int, line: Line) -> str:
    said = line.tree
    return (
        f"{file}:{at}: a crash left {said.get('bytes')} bytes of an unfinished line; they were kept"
        f" in {said.get('kept')}"
    )
