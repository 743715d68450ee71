"""Runs the tour's commands as child processes: announced, timed, and always ended."""

import contextlib
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from data_schemas.errors import HilumError

Say = Callable[[str], None]


class StepFailedError(Exception):
    """A step's process ended with a code other than 0; its output has been shown."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"a step ended with code {code}")


@dataclass(slots=True)
class Walk:
    """The tour under way: where its words go, its children's environment, its clock."""

    say: Say
    environment: Mapping[str, str]
    total: int
    started: float = field(default_factory=time.monotonic)
    done: int = 0

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Announce a step; afterwards say how long it and everything so far took."""
        self.done += 1
        began = time.monotonic()
        self.say(f"\n[{self.done}/{self.total}] {what}")
        yield
        now = time.monotonic()
        self.say(f"    took {now - began:.1f} s, {now - self.started:.0f} s so far")

    def hilum(self, *words: str) -> str:
        """Run ``hilum WORDS`` to its end, show what it prints, return its stdout.

        Raises
        ------
        StepFailedError
            If it ends with another code than 0.
        """
        with self._child(words) as child:
            lines = []
            for line in _lines(child):
                lines.append(line)
                self.say(f"    {line.rstrip()}")
            code = child.wait()
        if code:
            self.say(f"    ended with code {code}: hilum {shlex.join(words)}")
            raise StepFailedError(code)
        return "".join(lines)

    @contextmanager
    def serving(self, *words: str, patience_s: float = 90) -> Iterator[str]:
        """Run ``hilum serve WORDS`` for as long as the block lasts; yield the URL it names.

        Raises
        ------
        StepFailedError
            If it ends before it serves.
        HilumError
            If it doesn't say where it serves in ``patience_s`` seconds.
        """
        with self._child(("serve", *words), quiet=True) as child:
            said: queue.Queue[str] = queue.Queue()
            threading.Thread(target=_collect, args=(child, said), daemon=True).start()
            try:
                first = said.get(timeout=patience_s).strip()
            except queue.Empty as error:
                raise HilumError(f"the service said nothing for {patience_s:.0f} s") from error
            if not first:
                raise StepFailedError(child.wait() or 1)
            self.say(f"    {first}")
            yield first.rpartition(" ")[2]

    @contextmanager
    def _child(
        self, words: tuple[str, ...], *, quiet: bool = False
    ) -> Iterator["subprocess.Popen[str]"]:
        self.say(f"    $ hilum {shlex.join(words)}")
        child = subprocess.Popen(  # noqa: S603 - our own commands
            [sys.executable, "-m", "services.cli.main", *words],
            stdout=subprocess.PIPE,
            # a service's journal would drown the tour; its faults come back as answers
            stderr=subprocess.DEVNULL if quiet else None,
            env=dict(self.environment),
            text=True,
        )
        try:
            yield child
        finally:
            end(child)


def end(child: "subprocess.Popen[str]", patience_s: float = 10) -> None:
    """End a child that still runs: ask it first, then make it."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(patience_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdout is not None:
        with contextlib.suppress(OSError):
            child.stdout.close()


def _lines(child: "subprocess.Popen[str]") -> Iterator[str]:
    if child.stdout is not None:
        yield from child.stdout


def _collect(child: "subprocess.Popen[str]", said: "queue.Queue[str]") -> None:
    # goes on reading after the first line: a full pipe would stop the service
    with contextlib.suppress(ValueError, OSError):
        for line in _lines(child):
            said.put(line)
    said.put("")
