"""The files of a receipt log: their names, their end, the head that says how far the log is on disk."""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import HilumError
from data_schemas.receipt import FIRST, Line, parse_line

HEAD = "head.json"
LOCK = "lock"
HEAD_BYTES = 768
TAIL_BYTES = 256
_NAME = re.compile(r"receipts-(\d{12})-\d{8}\.jsonl")
_WINDOW = 2**20
STOPPED = "look with `hilum verify-receipts FOLDER`, keep the folder, and start the service with a new one"


@dataclass(frozen=True, slots=True)
class Tail:
    """Where the next line goes: the file, its size, and the last line's number and digest."""

    file: str
    size: int
    number: int
    digest: str

    def pack(self) -> bytes:
        """Return the bytes that the lock file holds, always as many."""
        words = (self.file or "-", str(self.size), str(self.number), self.digest)
        return " ".join(words).encode().ljust(TAIL_BYTES)


EMPTY = Tail("", 0, -1, FIRST)


def unpack(data: bytes) -> Tail | None:
    """Read what :meth:`Tail.pack` wrote; ``None`` if it is something else."""
    words = data.decode("latin-1").split()
    if len(data) != TAIL_BYTES or len(words) != 4 or not words[1].isdigit():
        return None
    file = "" if words[0] == "-" else words[0]
    return Tail(file, int(words[1]), int(words[2]), words[3])


def name_of(number: int, day: str) -> str:
    """Return the name of the file that begins with line ``number`` on ``day`` (YYYYMMDD)."""
    return f"receipts-{number:012d}-{day}.jsonl"


def day_of(name: str) -> str:
    """Return the day (YYYYMMDD) in a file's name."""
    return name[-14:-6]


def first_number(name: str) -> int | None:
    """Return the number of the first line of a file by its name; ``None``: no file of a log."""
    found = _NAME.fullmatch(name)
    return None if found is None else int(found[1])


def files_of(folder: Path) -> list[Path]:
    """Return the files of a log in their order."""
    return sorted(path for path in folder.iterdir() if first_number(path.name) is not None)


@contextmanager
def locked(handle: int, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold the lock of an open file; the kernel lets go of it when the process dies."""
    fcntl.flock(handle, kind)
    try:
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)


def read_head(data: bytes, where: Path) -> Line:
    """Read the head: the last line that is surely on disk.

    Raises
    ------
    HilumError
        If it is damaged.
    """
    line = parse_line(data.rstrip(b" \n"))
    if line is None or not line.whole or line.kind != "head":
        raise HilumError("is damaged", where=where, mend=STOPPED)
    return line


@dataclass(frozen=True, slots=True)
class End:
    """The end of a log as found on disk: what is whole, and what comes after that."""

    tail: Tail
    torn: bytes


def find_end(folder: Path, head: int, head_digest: str) -> End:
    """Return the end of a log.

    Parameters
    ----------
    folder
        Of the log.
    head, head_digest
        Number and digest of the last line that is surely on disk; -1: none.

    Raises
    ------
    HilumError
        If a line that was on disk is missing or altered: such a log isn't gone on with, because
        new lines would hide where it was cut.
    """
    files = files_of(folder)
    last: Line | None = None
    size, torn = 0, b""
    for path in files[-1:]:
        size, last, torn = _end_of(path, head)
    for path in files[-2:-1] if last is None else ():
        before, last, rest = _end_of(path, head)
        if rest or before == 0:
            raise HilumError("ends in the middle of a line", where=path, mend=STOPPED)
    number, digest = (-1, FIRST) if last is None else (last.number, last.digest)
    if number < head or (number == head and digest != head_digest):
        raise HilumError(
            f"the log ends with line {number}, and its head says that line {head} was written",
            where=folder,
            mend=STOPPED,
        )
    return End(Tail(files[-1].name if files else "", size, number, digest), torn)


def _end_of(path: Path, head: int) -> tuple[int, Line | None, bytes]:
    # after a crash of the machine any page that wasn't flushed may be missing, not only the last
    with path.open("rb") as stream:
        start = max(0, stream.seek(0, os.SEEK_END) - _WINDOW)
        stream.seek(start)
        data = stream.read()
    at = data.find(b"\n") + 1 if start else 0
    last: Line | None = None
    while (end := data.find(b"\n", at)) >= 0:
        line = parse_line(data[at:end])
        if line is None or not line.whole or (last is not None and not follows(line, last)):
            break
        last, at = line, end + 1
    known = last.number if last is not None else (first_number(path.name) or 0) - 1
    if at < len(data) and known < head:
        raise HilumError(f"is altered after line {known}", where=path, mend=STOPPED)
    return start + at, last, data[at:]


def follows(line: Line, last: Line) -> bool:
    """Tell whether a line is the next one of ``last``."""
    return line.number == last.number + 1 and line.previous == last.digest


def anchors_in(text: str) -> dict[int, str]:
    """Return number -> digest of the anchors in a service's log, or of lines ``NUMBER:DIGEST``."""
    found: dict[int, str] = {}
    for line in text.splitlines():
        number, colon, digest = line.strip().partition(":")
        if colon and number.isdigit() and re.fullmatch(r"[0-9a-f]{64}", digest):
            found[int(number)] = digest
        elif "receipts_anchor" in line:
            tree = json.loads(line)
            found[int(tree["number"])] = str(tree["digest"])
    return found
