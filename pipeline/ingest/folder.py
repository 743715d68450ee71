"""A folder that appears, or is replaced, whole or not at all; and the hidden one beside it where it is made."""

import ctypes
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_schemas.errors import UsageError
from data_schemas.files import sync

_LOCK = "lock"
_OLD = "old"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def check_target(out: Path, mark: str) -> None:
    """Raise UsageError if ``out`` holds something other than a folder with the file ``mark``.

    Nothing but our own is ever replaced.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError("is a file; a folder is written here", where=out)
    if any(out.iterdir()) and not (out / mark).is_file():
        raise UsageError(
            f"the folder is not empty and has no {mark}: it is not replaced",
            where=out,
            mend="choose another folder",
        )


@contextmanager
def part_of(out: Path) -> Iterator[Path]:
    """Yield the hidden folder ``.NAME.part`` beside ``out``, which nobody else uses meanwhile.

    What an earlier process left in it is still there. It stays until :func:`publish` or
    :func:`discard`.

    Raises
    ------
    UsageError
        If another process works on the same target.
    """
    part = out.parent / f".{out.name}.part"
    handle = _lock(part, out)
    try:
        if (part / _OLD).exists() and not out.exists():
            (part / _OLD).rename(out)  # killed between the two halves of a replacement
        yield part
    finally:
        os.close(handle)


def _lock(part: Path, out: Path) -> int:
    while True:
        part.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(part / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the other process finished between the two lines
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise UsageError(
                "another process is writing it", where=out, mend="wait until it ends"
            ) from error
        if _same_file(handle, part / _LOCK):
            return handle
        os.close(handle)  # it locked a file that the other process removed just then


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def clear(part: Path) -> None:
    """Remove everything from the hidden folder but its lock."""
    for path in part.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def discard(part: Path) -> None:
    """Remove the hidden folder."""
    shutil.rmtree(part, ignore_errors=True)


def publish(new: Path, out: Path, part: Path) -> None:
    """Flush ``new`` to disk, put it in the place of ``out`` in one step, and remove the hidden folder."""
    for path in [*new.rglob("*"), new]:
        sync(path)
    if not out.exists():
        new.rename(out)
    elif not _exchange(new, out):
        shutil.rmtree(part / _OLD, ignore_errors=True)
        out.rename(part / _OLD)
        new.rename(out)
    sync(out.parent)
    discard(part)


def _exchange(one: Path, other: Path) -> bool:
    # Linux renameat2(2) swaps two names at once; elsewhere, and on file systems without it, False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    result = call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return bool(result == 0)
