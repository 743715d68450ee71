"""Batches from a data set's memory map: order from seed and epoch, made one step ahead in a thread."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_schemas.errors import TrainingError
from pipeline.model.cores import available_cores
from pipeline.train.augment import Augment, spread
from pipeline.train.world import World

AHEAD = 2


class Pixels(Protocol):
    """Where prepared images come from (a data set's store)."""

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images [n, S, S, C]."""


_TURN = 40
"""Bits of a row's number: an image drawn again in an epoch is changed in another way."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Images [n, S, S, C] uint8 and their labels [n, L], class indices.

    ``weight`` is what this process's mean loss counts for: above 1 if its share of the batch is
    larger than another's, so that in the mean over processes every image counts the same.
    """

    images: Tensor
    targets: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Order:
    """In which order an epoch sees the images.

    ``indices`` are the manifest rows of the training split [n]; ``chance`` is the probability of
    each of them per draw, or ``None`` to see each image once an epoch.
    """

    indices: NDArray[np.int64]
    seed: int
    chance: NDArray[np.float64] | None = None

    def of(self, epoch: int) -> NDArray[np.int64]:
        """Return the manifest rows in the order of ``epoch``."""
        generator = np.random.default_rng([self.seed, epoch])
        if self.chance is None:
            return generator.permutation(self.indices)
        return generator.choice(self.indices, len(self.indices), p=self.chance)


class TrainingBatches:
    """The batches of an epoch, again and again. ``targets`` are of all manifest rows [N, L]."""

    def __init__(
        self,
        source: Pixels,
        targets: NDArray[np.int64],
        order: Order,
        batch: int,
        augment: Augment,
        world: World,
    ) -> None:
        """Raise :class:`TrainingError` if a batch has fewer images than there are processes."""
        self._source, self._targets, self._order = source, targets, order
        # a GPU takes images faster than one core makes them; on a CPU the network needs the cores
        threads = available_cores() - 1 if world.device.type == "cuda" else 1
        self._augment, self._world = spread(augment, threads), world
        # batches of nearly one size: a last batch of one image would break batch normalisation
        self.steps = max(1, round(len(order.indices) / batch))
        self.waited_s = 0.0
        if len(order.indices) // self.steps < world.size:
            raise TrainingError(
                f"a batch of {len(order.indices) // self.steps} images leaves some of "
                f"{world.size} processes without one",
                where="learning.batch",
                mend=f"use {world.size} or more, or fewer processes",
            )

    def __call__(self, epoch: int, after: int = 0) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` that come after the first ``after`` ones.

        ``waited_s`` then tells how long the loop waited for them.
        """
        self.waited_s = 0.0
        ahead = _Ahead(self._made(epoch, after))
        try:
            while True:
                started = time.perf_counter()
                batch = ahead.next()
                self.waited_s += time.perf_counter() - started
                if batch is None:
                    return
                yield batch
        finally:
            ahead.stop()

    def rows(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the manifest rows of a batch, the shares of all processes; steps count from 1."""
        return np.array_split(self._order.of(epoch), self.steps)[step - 1]

    def _made(self, epoch: int, after: int) -> Iterator[Batch]:
        order = self._order.of(epoch)
        ids = order + (_turns(order) << _TURN)
        for part in np.array_split(np.arange(len(order)), self.steps)[after:]:
            places = self._world.share(part)
            own = order[places]
            images = self._augment(self._source.pixels(own), ids[places], epoch)
            yield Batch(
                self._world.take(np.ascontiguousarray(images)),
                self._world.take(self._targets[own]),
                len(own) * self._world.size / len(part),
            )


def _turns(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often each row stood in ``order`` before."""
    grouped = np.argsort(order, kind="stable")
    places = np.arange(len(order))
    begins = np.concatenate([[True], np.diff(order[grouped]) != 0])
    turns = np.empty_like(order)
    turns[grouped] = places - np.maximum.accumulate(np.where(begins, places, 0))
    return turns


class _Ahead:
    """Runs an iterator in a thread, a few steps ahead of who asks."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue(AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def next(self) -> Batch | None:
        """Return the next batch, ``None`` at the end; raise what the thread raised."""
        got = self._ready.get()
        if isinstance(got, BaseException):
            raise got
        return got

    def stop(self) -> None:
        """End the thread, also in the middle of an epoch."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)  # make room for a batch that waits to be put
            except queue.Empty:
                continue
        self._thread.join()

    def _work(self) -> None:
        last: BaseException | None = None
        try:
            for batch in self._batches:
                self._ready.put(batch)
                if self._stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asks
            last = error
        self._ready.put(last)


def in_order(
    source: Pixels,
    indices: NDArray[np.int64],
    batch: int,
    world: World,
    between: Callable[[], None] = lambda: None,
) -> Iterator[Tensor]:
    """Yield the images of ``indices`` in order, unchanged; call ``between`` before each batch."""
    for start in range(0, len(indices), batch):
        between()
        images = np.ascontiguousarray(source.pixels(indices[start : start + batch]))
        yield torch.from_numpy(images).to(world.device)
