"""The parent of the serving processes: opens nothing but the port, forks workers, replaces the dead, ends all.

It has one thread and never touches an image or a network request, so it may fork at any time: everything
that workers import, it has imported once, and they share that memory. Connections wait in the listening
socket while a worker is replaced.
"""

import errno
import gc
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from services.inference.journal import Journal

YOUNG_S = 10.0
"""A child that dies younger than this, before it was ready, counts as failed at its start."""

LONGEST_PAUSE_S = 30.0
FORK_AGAIN_S = 1.0
_HEARD = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
_GRACE_S = 5

Life = Callable[[int, Callable[[], None]], None]
"""What a child does. It gets a file descriptor that ends when the parent does, and says when it is ready."""


@dataclass(slots=True)
class _Place:
    """One child's place: who fills it, and how its predecessors fared."""

    number: int
    name: str
    life: Life
    pid: int = 0
    since: float = 0.0
    young_deaths: int = 0
    start_at: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """Keeps one process alive for each of ``lives``.

    Parameters
    ----------
    lives
        Name -> what its process does; the name is for the log.
    drain_seconds
        How long children may take to end after SIGTERM; killed later.
    journal
        Where deaths are told.
    buried
        Called with the process id of each child that ended.
    ending
        Called first of all when it is told to end: the port is closed there, or connections would
        wait in it for somebody who doesn't come.
    """

    lives: dict[str, Life]
    drain_seconds: float
    journal: Journal
    buried: Callable[[int], None] = lambda _: None
    ending: Callable[[], None] = lambda: None
    _places: list[_Place] = field(default_factory=list)
    _lifeline: tuple[int, int] = (-1, -1)
    _ready: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, mmap.PAGESIZE))
    """A byte for each place, shared with the children: 1 once its child was ready."""

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return 0 if all children ended well by themselves."""
        self._lifeline = os.pipe()
        lives = enumerate(self.lives.items())
        self._places = [_Place(number, name, life) for number, (name, life) in lives]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        # what exists now is never collected: the collector would touch, and so copy, shared pages
        gc.freeze()
        gc.enable()
        try:
            while True:
                self._fill(before)
                heard = signal.sigtimedwait(_HEARD, self._patience())
                self._bury(ending=False)
                if heard is not None and heard.si_signo != signal.SIGCHLD:
                    return self._end()
        finally:
            for end in self._lifeline:
                os.close(end)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _fill(self, mask: set[int | signal.Signals]) -> None:
        for place in self._places:
            if place.pid == 0 and time.monotonic() >= place.start_at:
                place.since = time.monotonic()
                self._ready[place.number] = 0
                try:
                    pid = os.fork()
                except OSError as error:
                    # too many processes or too little memory, now: the others go on serving
                    place.start_at = time.monotonic() + FORK_AGAIN_S
                    self._tell_not_started(place, error)
                    continue
                if pid == 0:
                    self._live(place, mask)
                place.pid = pid

    def _tell_not_started(self, place: _Place, error: OSError) -> None:
        self.journal.write(
            "not_started",
            level="error",
            process=place.name,
            reason=errno.errorcode.get(error.errno or 0, type(error).__name__),
            again_in_seconds=FORK_AGAIN_S,
        )

    def _live(self, place: _Place, mask: set[int | signal.Signals]) -> None:
        code = 1
        try:
            os.close(self._lifeline[1])
            # Ctrl-C reaches everybody at the terminal; who ends when is the parent's business
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            place.life(self._lifeline[0], partial(self._note_ready, place))
            code = 0
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent's code must not run on
            self.journal.fault(error, process=place.name)
        finally:
            sys.stderr.flush()
            # the parent's files and exit handlers are the parent's
            os._exit(code)

    def _note_ready(self, place: _Place) -> None:
        self._ready[place.number] = 1

    def _patience(self) -> float:
        waits = [p.start_at - time.monotonic() for p in self._places if p.pid == 0]
        return max(0.0, min([*waits, 3600.0]))

    def _bury(self, *, ending: bool) -> bool:
        """Reap all that ended; return whether each ended well."""
        well = True
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return well
            if pid == 0:
                return well
            # others are orphans, where this is process 1 of a container
            for place in self._places:
                if place.pid == pid:
                    code = os.waitstatus_to_exitcode(status)
                    place.pid = 0
                    self.buried(pid)
                    # one that was told to end before it could hear it ends by the signal
                    well = well and code in (0, -signal.SIGTERM)
                    if not ending:
                        self._mourn(place, pid, code)

    def _mourn(self, place: _Place, pid: int, code: int) -> None:
        lived = time.monotonic() - place.since
        failed = lived < YOUNG_S and not self._ready[place.number]
        place.young_deaths = place.young_deaths + 1 if failed else 0
        # the first two are replaced at once: one accident must not cost seconds
        pause = 0.0 if place.young_deaths < 3 else 2.0 ** (place.young_deaths - 3)
        pause = min(pause, LONGEST_PAUSE_S)
        place.start_at = time.monotonic() + pause
        self.journal.write(
            "died",
            level="error",
            process=place.name,
            pid=pid,
            ended=f"exit code {code}" if code >= 0 else signal.Signals(-code).name,
            lived_seconds=round(lived, 1),
            again_in_seconds=pause,
            **({"deaths_at_start": place.young_deaths} if place.young_deaths >= 3 else {}),
        )

    def _end(self) -> int:
        self.ending()
        for place in self._places:
            if place.pid:
                os.kill(place.pid, signal.SIGTERM)
        well, end = True, time.monotonic() + self.drain_seconds + _GRACE_S
        while any(place.pid for place in self._places):
            left = end - time.monotonic()
            if left <= 0:
                well = False
                for place in self._places:
                    if place.pid:
                        os.kill(place.pid, signal.SIGKILL)
                end = time.monotonic() + _GRACE_S
            signal.sigtimedwait(_HEARD, max(0.01, min(left, 1.0)))
            well = self._bury(ending=True) and well
        return 0 if well else 1
