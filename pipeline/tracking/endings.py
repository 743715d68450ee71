"""How a run ends: signals become exceptions, dead processes are found, tracebacks lose their data."""

import hashlib
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from data_schemas.errors import HilumError

STOPPING = (signal.SIGTERM, signal.SIGINT)
INSISTS_AFTER_S = 3.0
FAILURE_TAG = "hilum.last_failure"
"""The run's tag that says in a line why it did not finish."""


class Terminated(SystemExit):
    """SIGTERM arrived. Left alone, the process ends with the shell's code for it, 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise :class:`Terminated` or ``KeyboardInterrupt`` in the block when a signal comes.

    The handlers that stood before are put back afterwards. Outside the main thread, where Python
    allows no handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _raise) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Asked:
    """Whether a stop signal came: its number, 0 for none."""

    def __init__(self) -> None:
        self.number = 0
        self.at = 0.0

    def error(self) -> BaseException:
        """Return what to raise where it is safe to stop."""
        return KeyboardInterrupt() if self.number == signal.SIGINT else Terminated()


@contextmanager
def noted() -> Iterator[Asked]:
    """Only take note of stop signals, for a block that stops itself where nothing is half done.

    Whoever insists, with a second signal :data:`INSISTS_AFTER_S` later, is obeyed at once (earlier
    ones may be a launcher's echo of the first). A signal that the block left unheard is raised at
    its end. Outside the main thread nothing is ever noted.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, frame: FrameType | None) -> None:
        if asked.number and time.monotonic() - asked.at > INSISTS_AFTER_S:
            _raise(number, frame)
        if not asked.number:
            asked.number, asked.at = number, time.monotonic()

    before = {number: signal.signal(number, note) for number in STOPPING}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked.number:
        raise asked.error()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold further stop signals back while a run's last words are written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def status_of(error: BaseException | None) -> str:
    """Return MLflow's status for a block that ended with ``error``."""
    if error is None:
        return "FINISHED"
    return "KILLED" if isinstance(error, Terminated | KeyboardInterrupt) else "FAILED"


def failure(error: BaseException) -> str:
    """Return in a line, fit for a place that others read, what ended a run."""
    if isinstance(error, Terminated | KeyboardInterrupt):
        return "stopped by " + ("SIGTERM" if isinstance(error, Terminated) else "Ctrl-C")
    return error.what[:500] if isinstance(error, HilumError) else type(error).__name__


def traceback_text(error: BaseException) -> str:
    """Return where ``error`` came from, fit for a place that others read.

    Frames as module and line, without source folders, arguments or locals. Only messages of our
    own errors are kept: they name no patient by their contract; a library's message may quote
    whatever value it choked on.
    """
    lines: list[str] = []
    chain: BaseException | None = error
    while chain is not None:
        for frame, line in traceback.walk_tb(chain.__traceback__):
            code = frame.f_code
            lines.append(f"  {_module_path(code.co_filename)}:{line} in {code.co_name}")
        lines.append(f"{type(chain).__module__}.{type(chain).__qualname__}: {_message(chain)}")
        chain = chain.__cause__ or chain.__context__
        if chain is not None:
            lines.append("\nwhich came from\n")
    return "\n".join(lines) + "\n"


def process_tags() -> dict[str, str]:
    """Return tags by which a later process can tell whether this one still lives."""
    import psutil

    process = psutil.Process()
    return {
        "hilum.host": host(),
        "hilum.process": f"{process.pid}:{process.create_time():.2f}",
    }


def is_gone(process_tag: str) -> bool:
    """Return whether the process that wrote ``process_tag`` on this host has ended."""
    import psutil

    number, _, started = process_tag.partition(":")
    try:
        return f"{psutil.Process(int(number)).create_time():.2f}" != started
    except (psutil.NoSuchProcess, ValueError):
        return True


def host() -> str:
    """Return a digest that stands for this machine's current boot, without naming it."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    seed = boot.read_text() if boot.exists() else ""
    return hashlib.sha256(f"{socket.gethostname()}{seed}".encode()).hexdigest()[:16]


def _raise(number: int, frame: FrameType | None) -> Any:  # noqa: ARG001 - the handler's signature
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated


def _module_path(file: str) -> str:
    for marker in (f"site-packages{os.sep}", f"lib{os.sep}python3"):
        if marker in file:
            return file.rpartition(marker)[2]
    root = Path(__file__).resolve().parents[2]
    path = Path(file)
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def _message(error: BaseException) -> str:
    return error.what if isinstance(error, HilumError) else "(message withheld; see --debug)"
