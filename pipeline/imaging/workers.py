"""Decoder processes apart from the caller's: a file that kills or hangs a decoder costs one answer, no batch.

A :class:`Crew` hands things to its workers and streams their answers back. A worker that ends, takes too
long or needs too much memory is replaced; only the thing it worked on is lost, and the caller is told.
"""

import multiprocessing
import os
import queue
import resource
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Self, TypeVar

from data_schemas.errors import HilumError

In = TypeVar("In")
Out = TypeVar("Out")

AHEAD = 12
"""Things in a worker's hands at most: one that it works on, the others so that it needn't wait."""
_LEAST = 4
"""It is handed more when it holds no more than this, in one message: each costs both sides a wake-up."""
_GATHER, _GATHER_S = 3.0, 0.1
"""Answers are gathered while a worker makes so many, at most so long, when all have more in hand than that:
to be woken by each answer costs the workers their caches."""
_NEWS = 0.1
"""Weight of the newest in the mean time that a thing takes."""
_START_S = 120.0
_REAP_S = 5.0
_TICK_S = 1.0
_READY, _OUT, _END, _FAULT, _ALL = range(5)


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What one answer may cost."""

    seconds: float = 120.0
    """By the clock on the wall, and again as CPU time."""
    memory_bytes: int = 2 * 2**30
    """Address space beyond what a worker holds when it starts; 0: no limit."""


@dataclass(frozen=True, slots=True)
class End:
    """The last word about a thing. ``code``: empty, or the code of the refusal it ended in."""

    code: str = ""
    reason: str = ""


class _Worker:
    """One process, the caller's end of its pipe, and what it has been given."""

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self.process = process
        self.connection = connection
        self.given: deque[Any] = deque()
        self.ready = False
        self.since = time.monotonic()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def has_said(self) -> bool:
        """Tell whether an answer, or the end of the process, waits to be heard."""
        return bool(self._poll.poll(0))

    def give(self, things: list[Any]) -> None:
        if not self.given:
            self.since = time.monotonic()
        self.given.extend(things)
        with suppress(OSError):  # it has died: reading its pipe will tell
            self.connection.send(things)

    def end(self) -> int | None:
        """Kill the process and return its exit code; it is left alone if even that doesn't end it."""
        self.connection.close()
        self.process.join(0.1)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(_REAP_S)
        return self.process.exitcode


class Crew(Generic[In, Out]):
    """Worker processes that carry out ``task``.

    Parameters
    ----------
    task
        From a thing to its answers: a function of a module, or a ``partial`` of one. It, things and
        answers must be picklable. It should not raise. Answers come one at a time; those of a tuple
        in one message.
    count
        Number of processes.
    preload
        Modules that ``task`` needs, imported once and not by every worker.
    """

    def __init__(
        self,
        task: Callable[[In], Iterable[Out]],
        count: int,
        limits: WorkerLimits = WorkerLimits(),
        preload: tuple[str, ...] = (),
    ) -> None:
        self._task = task
        self._count = count
        self._limits = limits
        # not fork: the caller may have threads. A fork server has imported what workers need
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, *preload])
        self._workers: list[_Worker] = []
        self._pace = 0.0  # seconds of a worker for one thing, lately
        self._heard = 0.0  # when answers were last asked for

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers. What they were working on is lost."""
        for worker in self._workers:
            worker.connection.close()  # which tells the process to end
        for worker in self._workers:
            worker.end()
        self._workers = []

    def stream(self, things: Iterable[In]) -> Iterator[tuple[In, Out | End]]:
        """Yield every answer with its thing, as they come; for each thing one ``End`` is the last.

        Few things are fetched from ``things`` ahead, and workers wait while nobody reads. They stay
        alive for the next call. A crew belongs to one thread.
        """
        try:
            yield from self._stream(iter(things))
        finally:
            # the reader went away in the middle: nobody waits for these answers
            for worker in [worker for worker in self._workers if worker.given]:
                self._workers.remove(worker)
                worker.process.kill()
                worker.end()

    def _stream(self, source: Iterator[In]) -> Iterator[tuple[In, Out | End]]:
        again: deque[In] = deque()
        more = True
        while True:
            more = self._hand_out(again, source) and more
            busy = [worker for worker in self._workers if worker.given]
            if not busy and not more:
                return
            self._gather(busy)
            asked = time.monotonic()
            wait([worker.connection for worker in busy], self._patience(busy))
            self._heard = time.monotonic()
            late = self._heard - asked - _TICK_S
            for worker in busy:
                if late > _TICK_S:  # this very process was stopped: nobody's fault
                    worker.since += late
                if worker.has_said():
                    yield from self._hear(worker, again)
                    while (
                        worker in self._workers and len(worker.given) > _LEAST and worker.has_said()
                    ):
                        yield from self._hear(worker, again)
                elif time.monotonic() > self._deadline(worker):
                    yield from self._replace(worker, again, late=True)

    def _gather(self, busy: list[_Worker]) -> None:
        """Sleep for as long as nobody will run out of things."""
        until = self._heard + min(_GATHER * self._pace, _GATHER_S)
        if all(len(worker.given) > _LEAST for worker in busy):
            time.sleep(max(0.0, until - time.monotonic()))

    def _hand_out(self, again: deque[In], source: Iterator[In]) -> bool:
        """Fill the hands of workers that hold little; tell whether ``source`` may hold more."""
        held = [len(worker.given) for worker in self._workers]
        held += [0] * (self._count - len(held))
        bunches: dict[int, list[In]] = {
            place: [] for place, count in enumerate(held) if count <= _LEAST
        }
        more = True
        for depth in range(AHEAD):  # one to each in turn: the last few are spread evenly
            for place, bunch in bunches.items():
                if more and held[place] + len(bunch) <= depth:
                    thing = again.popleft() if again else next(source, None)
                    if thing is None:
                        more = False
                    else:
                        bunch.append(thing)
        for place, bunch in bunches.items():
            if bunch and place >= len(self._workers):
                self._workers.append(self._start())
            if bunch:
                self._workers[place].give(bunch)
        return more

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, self._task, self._limits), daemon=True
        )
        with _without_main():
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def _deadline(self, worker: _Worker) -> float:
        return worker.since + (self._limits.seconds if worker.ready else _START_S)

    def _patience(self, busy: list[_Worker]) -> float:
        first = min(map(self._deadline, busy), default=0.0)
        return min(max(first - time.monotonic(), 0.0), _TICK_S)

    def _hear(self, worker: _Worker, again: deque[In]) -> Iterator[tuple[In, Out | End]]:
        try:
            kind, answer, seconds = worker.connection.recv()
        except Exception:  # noqa: BLE001 - the pipe ends, or a dying process wrote nonsense
            yield from self._replace(worker, again)
            return
        if kind in (_ALL, _END):
            self._pace += _NEWS * (seconds - self._pace)
        if kind == _READY:
            worker.ready, worker.since = True, time.monotonic()
        elif kind == _OUT:
            worker.since = time.monotonic()
            yield worker.given[0], answer
        elif kind == _ALL:
            worker.since, thing = time.monotonic(), worker.given.popleft()
            for one in answer:
                yield thing, one
            yield thing, End()
        else:
            worker.since = time.monotonic()
            reason = f"the reader failed with {answer}"
            yield worker.given.popleft(), End("DECODER_DIED", reason) if kind == _FAULT else End()

    def _replace(
        self, worker: _Worker, again: deque[In], *, late: bool = False
    ) -> Iterator[tuple[In, Out | End]]:
        """Put a new worker in the place of one that ended or must end; its other things go to the next."""
        if late:
            worker.process.kill()
        code = worker.end()
        if not worker.ready:
            raise HilumError(f"a worker process ended before it could start (exit code {code})")
        lost = worker.given.popleft()
        again.extend(worker.given)
        self._workers.remove(worker)
        yield lost, why_ended(code, self._limits, late=late)


@contextmanager
def _without_main() -> Iterator[None]:
    # multiprocessing would run the caller's own script again in every worker; ours need none of it
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def why_ended(code: int | None, limits: WorkerLimits, *, late: bool) -> End:
    """Return the refusal of the thing whose worker ended with ``code``, or was ended for being late."""
    if late or code == -signal.SIGPROF:
        return End("TIMED_OUT", f"decoding took longer than {limits.seconds:g} s and was stopped")
    ended = f"with exit code {code}"
    if code is not None and code < 0:
        with suppress(ValueError):
            ended = f"by {signal.Signals(-code).name}"
    return End("DECODER_DIED", f"the decoder's process was ended {ended}")


def _serve(
    connection: Connection, task: Callable[[Any], Iterable[Any]], limits: WorkerLimits
) -> None:
    """Work until the caller closes its end of the pipe. The whole life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller hears it and ends us
    # decoders write to the terminal, sometimes pieces of what they read
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    limit_memory(limits.memory_bytes)
    things: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, things), daemon=True).start()
    connection.send((_READY, None, 0.0))
    while True:
        thing = things.get()
        began = time.monotonic()
        last: tuple[int, Any] = (_END, None)
        try:
            limit_cpu(limits.seconds)
            answers = task(thing)
            if isinstance(answers, tuple):
                last = (_ALL, answers)
            else:
                for answer in answers:
                    connection.send((_OUT, answer, 0.0))
                    limit_cpu(limits.seconds)
        except Exception as error:  # noqa: BLE001 - the caller's batch goes on
            last = (_FAULT, type(error).__name__)
        connection.send((*last, time.monotonic() - began))


def _listen(connection: Connection, things: "queue.SimpleQueue[Any]") -> None:
    # a thread of its own: it takes things in while the decoder works, so that neither side ever waits
    # for the other in a circle, and it ends the process at once when the caller is gone
    while True:
        try:
            for thing in connection.recv():
                things.put(thing)
        except (EOFError, OSError):
            os._exit(0)


def limit_memory(extra: int) -> None:
    """Let this process take ``extra`` bytes of address space more than it holds; 0: no limit."""
    statm = Path("/proc/self/statm")
    if extra and statm.exists():
        held = int(statm.read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = held + extra if hard == resource.RLIM_INFINITY else min(held + extra, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def limit_cpu(seconds: float) -> None:
    """Let this process use ``seconds`` of CPU time from now on, and two more: its caller comes first.

    Not by RLIMIT_CPU, which is a limit of all the time since the process began: the kernel counts that
    in ticks, where ``time.process_time`` is exact, and within minutes of short work the two are half a
    minute apart. A timer begins at nought.
    """
    # the kernel ends a decoder that runs in circles, even if the caller has died
    signal.setitimer(signal.ITIMER_PROF, seconds + 2)
