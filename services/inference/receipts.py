"""The receipt log: hash-chained, appended to by all workers of a service, durable before an answer leaves."""

import errno
import hashlib
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_schemas.errors import HilumError, UsageError
from data_schemas.files import sync
from data_schemas.receipt import FIRST, Key, Receipt, keys_of, line_of, receipt_of
from data_schemas.score import Score
from services.inference.journal import Journal
from services.inference.problems import Refusal
from services.inference.receipt_files import (
    EMPTY,
    HEAD,
    HEAD_BYTES,
    LOCK,
    STOPPED,
    TAIL_BYTES,
    End,
    Tail,
    day_of,
    files_of,
    find_end,
    first_number,
    locked,
    name_of,
    read_head,
    unpack,
)
from services.inference.settings import ServiceSettings

ANCHOR_LINES = 1000
ANCHOR_SECONDS = 600.0
PROBE_SECONDS = 1.0
PROBE_BYTES = 8192


@dataclass(slots=True)
class _Open:
    """The files as this process has opened them: a lock isn't shared with a forked child."""

    pid: int
    lock: int
    head: int
    name: str = ""
    log: int = -1


class Receipts:
    """An append-only log of receipts that several processes and threads write at once.

    A line is written under one lock (microseconds). Then the first writer that gets the second
    lock flushes the file once for everybody who has written until then, in whatever process; the
    others find their line already on disk. ``head.json`` says how far the log is on disk; a log
    that ends before its head was cut.

    Parameters
    ----------
    folder
        On a local file system, used by one service. Made if it isn't there.
    journal
        Where anchors and failures are told.
    key
        Seals every line; ``None``: no seals.
    rotate_bytes
        A file is ended at this size, and at midnight UTC.

    Raises
    ------
    HilumError
        If the log that lies there was cut or altered.
    UsageError
        If the folder can't be made or written.
    """

    def __init__(
        self, folder: Path, journal: Journal, *, key: Key | None = None, rotate_bytes: int = 2**26
    ) -> None:
        self.folder = folder
        self._journal = journal
        self._key = key
        self._rotate_bytes = rotate_bytes
        self._writing = threading.Lock()
        self._syncing = threading.Lock()
        self._opened: _Open | None = None
        self._failing = ""
        self._probed = 0.0
        self._anchored = time.monotonic()
        self._rewrite = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._writing, self._locked() as files:
                self._recover(files)
        except OSError as error:
            raise UsageError(
                f"receipts can't be kept there: {error.strerror}",
                where=folder,
                mend="name a folder on a disk with room that the service may write",
            ) from error

    def append(self, receipt: Receipt) -> int:
        """Write a receipt and return its number once it is on disk. Blocks; thread-safe.

        Raises
        ------
        Refusal
            ``RECEIPT_NOT_KEPT`` if it can't be made durable; then the answer must not leave.
        """
        fields = receipt.model_dump(mode="json")
        with self._told():
            number = self._write(fields)
            self._make_durable(number)
        return number

    @property
    def failing(self) -> bool:
        """Whether the last attempt to keep a receipt failed."""
        return bool(self._failing)

    def check(self) -> None:
        """Return at once while receipts can be kept; after a failure, try, at most once a second.

        Raises
        ------
        Refusal
            ``RECEIPT_NOT_KEPT`` while they can't.
        """
        if not self._failing:
            return
        now = time.monotonic()
        if now - self._probed < PROBE_SECONDS:
            raise _not_kept(self._failing)
        self._probed = now
        with self._told():
            self._probe()

    def close(self) -> None:
        """Tell where the log ends, and let go of its files."""
        with suppress(OSError, HilumError), self._writing, self._locked() as files:
            tail = self._tail(files)
            if tail.number >= 0:
                self._anchor(tail)
        self.let_go()

    def let_go(self) -> None:
        """Close the files and say nothing."""
        if self._opened is not None and self._opened.pid == os.getpid():
            for handle in (self._opened.lock, self._opened.head, self._opened.log):
                with suppress(OSError):
                    os.close(handle)
        self._opened = None

    # ---- writing, under the first lock

    def _write(self, fields: Mapping[str, Any]) -> int:
        with self._writing, self._locked() as files:
            tail = self._tail(files)
            if not self._is_due(tail):
                return self._put(files, tail, "receipt", fields).number
        with self._flushing() as (files, tail):
            return self._put(files, tail, "receipt", fields).number

    def _put(self, files: _Open, tail: Tail, kind: str, fields: Mapping[str, Any]) -> Tail:
        line, digest = line_of(kind, fields, tail.number + 1, tail.digest, self._key)
        self._fill(files, line, tail.size)
        new = Tail(tail.file, tail.size + len(line), tail.number + 1, digest)
        os.pwrite(files.lock, new.pack(), 0)
        return new

    @staticmethod
    def _fill(files: _Open, data: bytes, at: int) -> None:
        try:
            done = os.pwrite(files.log, data, at)
            while done < len(data):
                done += os.pwrite(files.log, data[done:], at + done)
        except OSError:
            # nobody was told of this line yet; half of it must not stay
            os.ftruncate(files.log, at)
            raise

    def _tail(self, files: _Open) -> Tail:
        # another process may have written, or rotated, or died between a line and this note
        tail = unpack(os.pread(files.lock, TAIL_BYTES, 0))
        if tail is None or not tail.file:
            return self._recover(files)
        if tail.file != files.name:
            self._open_log(files, tail.file)
        found = os.fstat(files.log)
        if found.st_size != tail.size or found.st_nlink == 0:
            return self._recover(files)
        return tail

    def _is_due(self, tail: Tail) -> bool:
        # for a new file; a file without a line is gone on with whatever its day
        if not tail.file:
            return True
        today = datetime.now(UTC).strftime("%Y%m%d")
        return tail.size > 0 and (tail.size >= self._rotate_bytes or day_of(tail.file) != today)

    def _rotated(self, files: _Open, tail: Tail) -> Tail:
        """Return the tail of a new file if one is due. Under both locks."""
        if not self._is_due(tail):
            return tail
        if tail.file:
            # nobody comes back to a file that was left
            self._write_again(files.log, tail)
            self._flush(files.log)
        name = name_of(tail.number + 1, datetime.now(UTC).strftime("%Y%m%d"))
        self._open_log(files, name, os.O_CREAT)
        sync(self.folder)
        new = Tail(name, 0, tail.number, tail.digest)
        os.pwrite(files.lock, new.pack(), 0)
        return new

    def _recover(self, files: _Open) -> Tail:
        head = self._head(files)
        end = find_end(self.folder, *head)
        tail = end.tail
        if tail.file:
            # also one of the same name: a copy may have been put in its place
            again = tail.file == files.name
            self._open_log(files, tail.file)
            if again:
                sync(self.folder)
        if end.torn:
            tail = self._mend(files, end)
        os.pwrite(files.lock, tail.pack(), 0)
        return tail

    def _mend(self, files: _Open, end: End) -> Tail:
        # what a crash left unfinished was never answered; it is kept, and the log says so
        tail, data = end.tail, end.torn
        kept = f"torn-{tail.number + 1:012d}-{uuid.uuid4().hex[:8]}.bin"
        handle = os.open(self.folder / kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        sync(self.folder)
        os.ftruncate(files.log, tail.size)
        facts = {
            "schema_version": Receipt.VERSION,
            "time": now(),
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "kept": kept,
        }
        self._journal.write("receipts_mended", level="warning", bytes=len(data), kept=kept)
        return self._put(files, tail, "mended", facts)

    # ---- durable, under the second lock

    def _make_durable(self, number: int) -> None:
        with self._syncing:
            files = self._files()
            with locked(files.head):
                durable, _ = self._head(files)
                if durable >= number:
                    return
                with self._writing, self._locked() as files:
                    tail = self._tail(files)
                    if tail.number < number:
                        raise HilumError(
                            f"line {number} is gone: its file was replaced", where=self.folder
                        )
                    self._write_again(files.log, tail)
                    handle = os.dup(files.log)
                try:
                    self._flush(handle)
                finally:
                    os.close(handle)
                self._put_head(files, tail)
        if durable // ANCHOR_LINES != tail.number // ANCHOR_LINES or (
            time.monotonic() - self._anchored > ANCHOR_SECONDS
        ):
            self._anchor(tail)

    @contextmanager
    def _flushing(self) -> Iterator[tuple[_Open, Tail]]:
        """Hold both locks, with room in the file.

        One flush at a time: of several the kernel tells only one that it failed.
        """
        with (
            self._syncing,
            locked(self._files().head),
            self._writing,
            self._locked() as files,
        ):
            yield files, self._rotated(files, self._tail(files))

    def _write_again(self, handle: int, tail: Tail) -> None:
        # after a failed flush the kernel holds its pages for clean: only what is written again is
        # flushed again
        if self._rewrite:
            os.pwrite(handle, os.pread(handle, tail.size, 0), 0)

    def _flush(self, handle: int) -> None:
        self._rewrite = True
        os.fdatasync(handle)
        self._rewrite = False

    def _head(self, files: _Open) -> tuple[int, str]:
        data = os.pread(files.head, HEAD_BYTES, 0)
        if not data and not files_of(self.folder):
            self._put_head(files, EMPTY)
            return -1, FIRST
        line = read_head(data, self.folder / HEAD)
        return line.number, line.previous

    def _put_head(self, files: _Open, tail: Tail) -> None:
        facts = {"schema_version": Receipt.VERSION, "time": now(), "file": tail.file}
        line, _ = line_of("head", facts, tail.number, tail.digest, self._key)
        os.pwrite(files.head, line[:-1].ljust(HEAD_BYTES - 1) + b"\n", 0)

    def _anchor(self, tail: Tail) -> None:
        self._anchored = time.monotonic()
        self._journal.write("receipts_anchor", number=tail.number, digest=tail.digest)

    # ---- files and failures

    @contextmanager
    def _locked(self) -> Iterator[_Open]:
        files = self._files()
        with locked(files.lock):
            yield files

    def _files(self) -> _Open:
        if self._opened is None or self._opened.pid != os.getpid():
            modes = os.O_RDWR | os.O_CLOEXEC
            # a head that was taken away is not made anew: it would say that nothing was cut
            begun = bool(files_of(self.folder))
            if begun and not (self.folder / HEAD).exists():
                raise HilumError("is missing", where=self.folder / HEAD, mend=STOPPED)
            lock = os.open(self.folder / LOCK, modes | os.O_CREAT, 0o640)
            head = os.open(self.folder / HEAD, modes | (0 if begun else os.O_CREAT), 0o640)
            self._opened = _Open(os.getpid(), lock, head)
        return self._opened

    def _open_log(self, files: _Open, name: str, create: int = 0) -> None:
        if first_number(name) is None:
            raise HilumError("names no file of a receipt log", where=self.folder / LOCK)
        handle = os.open(self.folder / name, os.O_RDWR | os.O_CLOEXEC | create, 0o640)
        if files.log >= 0:
            os.close(files.log)
        files.log, files.name = handle, name

    def _probe(self) -> None:
        with self._flushing() as (files, tail):
            self._write_again(files.log, tail)
            self._fill(files, bytes(PROBE_BYTES), tail.size)
            try:
                self._flush(files.log)
            finally:
                os.ftruncate(files.log, tail.size)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, HilumError) as error:
            reason = errno.errorcode.get(error.errno or 0, "") if isinstance(error, OSError) else ""
            reason = reason or str(getattr(error, "what", type(error).__name__))
            if not self._failing:
                self._journal.write("receipts_failing", level="error", reason=reason)
            self._failing = reason
            raise _not_kept(reason) from error
        if self._failing:
            self._failing = ""
            self._journal.write("receipts_kept_again")


def _not_kept(reason: str) -> Refusal:
    return Refusal(
        "RECEIPT_NOT_KEPT",
        f"The receipt of a score can't be written ({reason}), so none is answered.",
        "tell whoever runs the service; it goes on by itself once there is room",
        retry_after_s=5,
    )


def now() -> str:
    """Return the time as receipts say it: UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def with_receipt(receipts: Receipts, score: Score) -> Score:
    """Return the score with its id, once its receipt is on disk."""
    named = score.model_copy(update={"score_id": str(uuid.uuid4())})
    receipts.append(receipt_of(named, now()))
    return named


def open_receipts(settings: ServiceSettings, journal: Journal) -> Receipts | None:
    """Return the log that the settings name; ``None`` (and a line that says so) if they name none.

    Raises
    ------
    HilumError
        If the log was cut or altered, or the key file can't be used.
    """
    if not settings.receipts:
        journal.write("no_receipts", level="warning", mend="name a folder: HILUM_RECEIPTS")
        return None
    key = _key_of(settings)
    journal.write("receipts", sealed=key is not None)
    rotate = settings.receipt_file_mb * 2**20
    return Receipts(Path(settings.receipts), journal, key=key, rotate_bytes=rotate)


def check_receipts(settings: ServiceSettings) -> None:
    """Open the log that the settings name, mend its end if need be, and let it go.

    Raises
    ------
    HilumError
        If the log was cut or altered, its folder can't be written, or the key file can't be used.
    """
    Receipts(Path(settings.receipts), Journal(), key=_key_of(settings)).let_go()


def _key_of(settings: ServiceSettings) -> Key | None:
    if not settings.receipt_key_file:
        return None
    return read_keys(Path(settings.receipt_key_file))[0]


def read_keys(path: Path) -> tuple[Key, ...]:
    """Return the keys of a key file.

    Raises
    ------
    UsageError
        If it can't be read.
    """
    try:
        return keys_of(path.read_text(encoding="ascii"), where=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("the key file can't be read", where=path) from error
