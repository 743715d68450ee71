"""A folder that appears whole or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_schemas.errors import UsageError

_LOCK = ".lock"


def check_target(out: Path, *, force: bool, mark: str) -> None:
    """Raise UsageError if ``out`` holds something that must not be overwritten.

    Even with ``force`` only a folder that has the file ``mark`` is replaced: never somebody's own.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError("is a file; a folder is written here", where=out)
    if not any(out.iterdir()):
        return
    if not force:
        raise UsageError(
            "the folder is not empty", where=out, mend="choose another, or use --force"
        )
    if not (out / mark).is_file():
        raise UsageError(f"the folder has no {mark}: it is not replaced", where=out)


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``out``; on success flush it to disk and rename it to ``out``.

    On an exception it is removed. A killed process leaves it behind under a hidden name; the next
    run for the same target sweeps it away, which its lock shows to be dead.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    try:
        with (part / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield part
            (part / _LOCK).unlink()
            _flush(part)
            part.chmod(0o755)
            _rename(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _sweep(out: Path) -> None:
    for part in out.parent.glob(f".{out.name}.*.part"):
        with suppress(OSError), (part / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(part, ignore_errors=True)


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _rename(part: Path, out: Path) -> None:
    if not out.exists():
        part.rename(out)
        return
    old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    out.rename(old / out.name)
    part.rename(out)
    shutil.rmtree(old, ignore_errors=True)
