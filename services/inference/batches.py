"""Images of several requests in one run of the network, for hardware that is idle with one: micro-batches."""

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import HilumError
from pipeline.model.graph import Outputs
from pipeline.model.runtime import Runtime


class _Batch:
    """Images that will run together, in the order in which they came."""

    def __init__(self) -> None:
        self.images: list[NDArray[np.uint8]] = []
        self.full = threading.Event()
        self.ended = threading.Event()
        self.outputs: Outputs | None = None


class Together:
    """A runtime whose callers' images run together. Called from many threads, one image a call.

    The first image of a batch waits for others until the batch is full, ``wait_s`` have passed, or
    the run before has ended, whichever comes last of the latter two: while the hardware is busy,
    waiting costs nothing. Its own thread then runs the batch for all. One run at a time.

    Parameters
    ----------
    runtime
        Opened for a batch of the size that is wanted.
    wait_s
        How long an image waits for others.
    ran
        Told how many images each run had.
    """

    def __init__(
        self, runtime: Runtime, wait_s: float, ran: Callable[[int], None] = lambda _count: None
    ) -> None:
        self._runtime, self._wait_s, self._ran = runtime, wait_s, ran
        self._gathering = threading.Lock()
        self._running = threading.Lock()
        self._open: _Batch | None = None

    @property
    def identity(self) -> str:
        """How scores and receipts name the runtime."""
        return self._runtime.identity

    @property
    def bias(self) -> NDArray[np.float32]:
        """Of each logit, [K]."""
        return self._runtime.bias

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run one image, uint8 [1, size, size, channels], with those of other callers.

        Raises
        ------
        UsageError, PackageError
            As :meth:`Runtime.run`. Where a batch fails, each of its images runs by itself, so that
            only the one at fault is refused.
        """
        with self._gathering:
            batch, leads = self._open, self._open is None
            if batch is None:
                batch = self._open = _Batch()
            place = len(batch.images)
            batch.images.append(images)
            if len(batch.images) == self._runtime.batch:
                self._open = None  # the next image begins another one
                batch.full.set()
        if leads:
            batch.full.wait(self._wait_s)
            with self._running:
                self._lead(batch)
        else:
            batch.ended.wait()
        if batch.outputs is None:
            return self._runtime.run(images)
        return batch.outputs.rows(place, place + 1)

    def _lead(self, batch: _Batch) -> None:
        with self._gathering:
            if self._open is batch:
                self._open = None
        try:
            batch.outputs = self._runtime.run(np.concatenate(batch.images))
            self._ran(len(batch.images))
        except (HilumError, ValueError):  # an array of another shape can't be joined to the others
            batch.outputs = None
        finally:
            batch.ended.set()
