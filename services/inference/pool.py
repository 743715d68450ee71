"""A thread pool with a bounded queue: beyond it, a request is told to come back instead of waiting."""

import asyncio
import contextvars
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from data_schemas.errors import BusyError
from services.inference.figures import Figures
from services.inference.patience import too_late

Answer = TypeVar("Answer")


class Pool:
    """Runs work in ``threads`` threads; at most ``queue`` pieces wait. Called from one event loop.

    A bounded queue keeps the wait of the last in line near (queue / threads x time of one image);
    an unbounded one lets it grow until every client has given up.
    """

    def __init__(self, threads: int, queue: int, figures: Figures) -> None:
        self.threads = threads
        self.queue = queue
        self._figures = figures
        self._under_way = 0
        self._mean_seconds = 0.1
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="score")

    async def run(self, work: Callable[[], Answer], deadline: float = math.inf) -> Answer:
        """Run ``work`` in a thread and return its answer.

        Work that waits is dropped when its caller is cancelled, or when its turn comes after
        ``deadline`` (on the clock of ``time.monotonic``); what can't be done in time isn't begun.

        Raises
        ------
        BusyError
            If the threads are taken and the queue is full; with the expected time to wait.
        Refusal
            ``TOO_LATE``.
        """
        self._admit(deadline)
        self._under_way += 1
        self._tell_waiting()
        asked = time.perf_counter()

        # a piece that is dropped lies in the executor's queue until its turn: its images must not
        held = [work]
        del work

        def timed() -> tuple[Answer, float]:
            began = time.perf_counter()
            self._figures.queue_seconds.observe(began - asked)
            if time.monotonic() > deadline or not held:
                raise too_late()
            return held.pop()(), time.perf_counter() - began

        try:
            # the thread knows which request it works for, as the caller does
            future = self._executor.submit(contextvars.copy_context().run, timed)
        except BaseException:
            self._leave()
            raise
        found: asyncio.Future[tuple[Answer, float]] = asyncio.get_running_loop().create_future()
        # the loop is woken once for each image, not for its answer and for its place
        future.add_done_callback(partial(self._tell, found))
        try:
            answer, seconds = await found
        except asyncio.CancelledError:
            future.cancel()
            held.clear()
            raise
        finally:
            # a failure holds this frame; if this held the failure, its images would stay, too
            del found, future
        self._mean_seconds += 0.1 * (seconds - self._mean_seconds)
        return answer

    def close(self) -> None:
        """Wait for what runs, drop what waits."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _admit(self, deadline: float) -> None:
        expected = max(0, self._under_way - self.threads) / self.threads * self._mean_seconds
        if time.monotonic() + expected > deadline:
            raise too_late(max(1, math.ceil(expected)))
        if self._under_way >= self.threads + self.queue:
            wait = math.ceil(self._under_way / self.threads * self._mean_seconds)
            raise BusyError(
                f"{self.threads} images are being scored and {self.queue} are waiting",
                retry_after_s=max(1, wait),
            )

    def _tell(
        self,
        found: "asyncio.Future[tuple[Answer, float]]",
        done: "Future[tuple[Answer, float]]",
    ) -> None:
        found.get_loop().call_soon_threadsafe(self._settle, found, done)

    def _settle(
        self,
        found: "asyncio.Future[tuple[Answer, float]]",
        done: "Future[tuple[Answer, float]]",
    ) -> None:
        # a place is free again when the work has ended, not when its client has gone away
        self._leave()
        if found.done():
            return
        if done.cancelled():
            found.cancel()
        elif (error := done.exception()) is not None:
            found.set_exception(error)
        else:
            found.set_result(done.result())

    def _leave(self) -> None:
        self._under_way -= 1
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        self._figures.waiting.set(max(0, self._under_way - self.threads))
