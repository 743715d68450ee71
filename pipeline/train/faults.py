"""What ends a training that nobody stopped: told with its cause, its place and what to do about it.

Out of memory, a disk without room, a process of the same training that died, a batch whose loss is
not finite.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_schemas.errors import TrainingError
from data_schemas.plan import Plan
from pipeline.tracking.runs import TrackedRun
from pipeline.train.batches import Order
from pipeline.train.labels import Ints
from pipeline.train.task import Task
from pipeline.train.world import World

BATCH_FILE = "errors/batch.json"
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "std::bad_alloc")
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "NCCL")


class NotFiniteError(TrainingError):
    """A loss or gradient is not finite; the weights are those of the step before."""

    def __init__(self, loss: float, norm: float, epoch: int, step: int) -> None:
        self.epoch, self.step = epoch, step
        super().__init__(
            f"loss {loss:g} and gradient norm {norm:g} in epoch {epoch}, step {step}",
            mend="lower learning.rate, lengthen learning.warmup, or use learning.precision fp32",
        )


@contextmanager
def explained(run: TrackedRun, task: Task, world: World) -> Iterator[None]:
    """Turn what a library raises in the block into our own errors, and log a batch that went wrong.

    Raises
    ------
    TrainingError
        Instead of an exception that says memory, room or another process is gone.
    """
    try:
        yield
    except NotFiniteError as error:
        named = _log_batch(run, task, error)
        raise TrainingError(
            f"{error.what}; its {named} images are named in {BATCH_FILE}", mend=error.mend
        ) from error
    except TrainingError:
        raise
    except Exception as error:
        ours = told(error, task.plan, world)
        if ours is None:
            raise
        raise ours from error


def told(error: BaseException, plan: Plan, world: World) -> TrainingError | None:
    """Return what ``error`` means to who trains; ``None`` if it says nothing known."""
    text = str(error)
    if _is_memory(error, text):
        return out_of_memory(plan, world)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TrainingError(
            os.strerror(error.errno),
            where=error.filename,
            mend="make room; the run goes on where it was: hilum train DATASET --resume RUN",
        )
    if world.size > 1 and isinstance(error, RuntimeError) and any(w in text for w in LOST_PEER):
        return TrainingError(
            f"another of the {world.size} processes of this training ended",
            where=f"process {world.rank}",
            mend="its own output says why; nothing of it: killed, perhaps for want of memory",
        )
    return None


def out_of_memory(plan: Plan, world: World) -> TrainingError:
    """Return the error of a batch that did not fit, with the batch to try."""
    batch = plan.learning.batch
    parts = plan.learning.accumulate
    split = f" in {parts} parts" if parts > 1 else ""
    where = "the GPU's memory" if world.device.type == "cuda" else "memory"
    smaller = 1 << ((batch - 1).bit_length() - 1) if batch > 1 else 0
    if smaller:
        mend = f"try --set learning.batch={smaller}"
    else:
        mend = "try a smaller network.backbone, or smaller images"
    return TrainingError(
        f"batch {batch}{split} did not fit into {where}" + (f": try {smaller}" if smaller else ""),
        where="learning.batch",
        mend=mend,
    )


def batch_rows(order: Order, steps: int, epoch: int, step: int) -> Ints:
    """Return the manifest rows of one batch, of all processes together; steps count from 1."""
    return np.array_split(order.of(epoch), steps)[step - 1]


def _is_memory(error: BaseException, text: str) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(words in text for words in NO_MEMORY)
