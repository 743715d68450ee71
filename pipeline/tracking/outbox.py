"""What a run logs, written down before it is sent: letters in order, kept until the store has them.

A folder with ``run.json`` (whose letters they are), ``letters.jsonl`` (one line a letter, and one
line for every time that letters were taken), ``files/`` (artifacts on their way) and ``lock``. A
process that dies loses nothing of it; ``hilum send`` brings the rest to the store.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from data_schemas.errors import TrackingError
from data_schemas.files import write_text

BOX = "outbox"
"""Name of an outbox inside its run's folder."""
ABOUT, LETTERS, REFUSED, FILES, LOCK = "run.json", "letters.jsonl", "refused.jsonl", "files", "lock"


@dataclass(frozen=True, slots=True)
class Letter:
    """One thing to tell the store; ``kind`` is a key of ``pipeline.tracking.delivery.ROADS``."""

    number: int
    kind: str
    body: dict[str, Any]


class Outbox:
    """The letters of one run. Not safe for several threads: its sender holds a lock of its own.

    What the disk refuses is kept in memory, and written as soon as there is room.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.waiting: deque[Letter] = deque()
        self.fault: OSError | None = None  # why the last letter is in memory only
        self._unwritten: list[bytes] = []
        self._stream, self._number = _reopened(folder / LETTERS, self.waiting)

    def put(self, kind: str, body: Mapping[str, Any]) -> Letter:
        """Add a letter and write it down, where the disk takes it. See :meth:`settle`."""
        self._number += 1
        letter = Letter(self._number, kind, dict(body))
        self.waiting.append(letter)
        self._write({"number": letter.number, "kind": kind, "body": letter.body})
        return letter

    def taken(self, letters: list[Letter]) -> None:
        """Forget letters that the store has, the first ones that were waiting, and their files."""
        for letter in letters:
            self.waiting.remove(letter)
            self._remove_file(letter)
        self._write({"taken": letters[-1].number})

    def set_aside(self, letter: Letter, why: str) -> None:
        """Take a letter that the store will never take out of the way, without losing it."""
        self.waiting.remove(letter)
        line = {"number": letter.number, "kind": letter.kind, "body": letter.body, "why": why}
        with contextlib.suppress(OSError), (self.folder / REFUSED).open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        self._write({"aside": letter.number})

    @contextmanager
    def place_for_file(self) -> Iterator[Path]:
        """Yield a new folder for an artifact, gone if the block fails; its letter names it ``lies``."""
        self._number += 1
        place = self.folder / FILES / f"{self._number:07d}"
        place.mkdir(parents=True)
        try:
            yield place
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)  # half a package may fill what room is left
            raise

    def settle(self) -> None:
        """Bring what was written through the system's buffers to the disk itself.

        What was put survives the process's death without it, and a power cut with it.
        """
        with contextlib.suppress(OSError):
            os.fsync(self._stream.fileno())

    def close(self, *, remove: bool) -> None:
        """Let the journal go; with ``remove``, its folder too."""
        self._stream.close()
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.folder.parent.rmdir()  # the run's own folder, where nothing else lies in it

    def _write(self, line: dict[str, Any]) -> None:
        self._unwritten.append(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        data = b"".join(self._unwritten)
        whole = self._stream.seek(0, os.SEEK_END)
        try:
            if self._stream.write(data) < len(data):  # the disk became full in the middle
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301 - as it would
        except OSError as error:
            self.fault = error
            with contextlib.suppress(OSError):
                self._stream.truncate(whole)  # no half line in the middle
            return
        self._unwritten, self.fault = [], None

    def _remove_file(self, letter: Letter) -> None:
        if "lies" in letter.body:
            shutil.rmtree(self.folder / FILES / letter.body["lies"], ignore_errors=True)


@contextmanager
def opened(folder: Path, about: dict[str, str]) -> Iterator[Outbox]:
    """Open a run's outbox, locked for this process; it is gone afterwards if nothing waits in it.

    Raises
    ------
    TrackingError
        If another process has it open, or the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a")
    except OSError as error:
        raise _unusable(folder, error) from error
    with lock:
        try:
            # let go by the system when this process ends, however it ends
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrackingError(
                "another process writes or sends what waits here",
                where=folder,
                mend="wait for it, or stop it first",
            ) from error
        try:
            if not (folder / ABOUT).is_file():
                write_text(folder / ABOUT, json.dumps(about, indent=2) + "\n")
            outbox = Outbox(folder)
        except OSError as error:
            raise _unusable(folder, error) from error
        try:
            yield outbox
        finally:
            done = not outbox.waiting and not (folder / REFUSED).exists()
            outbox.close(remove=done)


def about(folder: Path) -> dict[str, str]:
    """Return whose outbox ``folder`` is: ``uri``, ``run_id``.

    Raises
    ------
    TrackingError
        If it is no outbox.
    """
    try:
        found: dict[str, str] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        return {"uri": found["uri"], "run_id": found["run_id"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrackingError(
            "nothing that a run logged waits here",
            where=folder,
            mend="name the folder that `hilum train` named, or the one above it",
        ) from error


def box_of(run_folder: Path) -> Path:
    """Return where the outbox lies in a run's folder."""
    return run_folder / BOX


def now_ms() -> int:
    """Return the time as MLflow stamps it: milliseconds since 1970."""
    return int(time.time() * 1000)


def _reopened(file: Path, waiting: deque[Letter]) -> tuple[BinaryIO, int]:
    """Open a journal, fill ``waiting``, cut a torn end off; return it and its highest number."""
    stream = file.open("a+b", buffering=0)
    stream.seek(0)
    number = whole = 0
    for line in stream.read().splitlines(keepends=True):
        tree = _parsed(line)
        if tree is None:
            break  # a power cut tore it: what comes after can't be whole
        whole += len(line)
        if "taken" in tree:
            while waiting and waiting[0].number <= tree["taken"]:
                waiting.popleft()
        elif "aside" in tree:
            kept = [letter for letter in waiting if letter.number != tree["aside"]]
            waiting.clear()
            waiting.extend(kept)
        else:
            letter = Letter(tree["number"], tree["kind"], tree["body"])
            waiting.append(letter)
            number = max(number, letter.number, int(letter.body.get("lies", 0)))
    stream.truncate(whole)
    return stream, max([number, *_numbers(file.parent / FILES)])


def _parsed(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        tree = json.loads(line)
    except ValueError:
        return None
    return tree if isinstance(tree, dict) else None


def _numbers(folder: Path) -> list[int]:
    names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208 - names, not paths
    return [int(name) for name in names if name.isdigit()]


def _unusable(folder: Path, error: OSError) -> TrackingError:
    return TrackingError(
        f"what a run logs can't be kept here: {os.strerror(error.errno or 0)}",
        where=folder,
        mend="make room, or name another place with --state",
    )
