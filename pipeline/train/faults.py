"""What ends a training that nobody stopped: told with its cause, its place and what to do about it.

Out of memory, a disk without room, a process of the same training that died, a batch whose loss is
not finite.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch

from data_schemas.errors import TrainingError
from data_schemas.files import sha256
from data_schemas.plan import Plan
from pipeline.tracking.runs import TrackedRun
from pipeline.train.advice import smaller_batch
from pipeline.train.batches import TrainingBatches
from pipeline.train.labels import Ints
from pipeline.train.loop import NotFiniteError
from pipeline.train.task import Task
from pipeline.train.world import World

BATCH = "learning.batch"
"""The setting that an error of want of memory names as its place."""
BATCH_FILE = "errors/batch.json"
NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "std::bad_alloc")
LOST_PEER = ("onnection closed by", "onnection reset by", "Timed out waiting", "ncclRemoteError")


@contextmanager
def naming_the_batch(batches: TrainingBatches) -> Iterator[None]:
    """Give an error of a loss that is not finite the manifest rows of its batch."""
    try:
        yield
    except NotFiniteError as error:
        error.rows = batches.rows(error.epoch, error.step)
        raise


@contextmanager
def explained(run: TrackedRun, task: Task, world: World) -> Iterator[None]:
    """Turn what a library raises in the block into an error of ours; log a batch that went wrong.

    Raises
    ------
    TrainingError
        Instead of an exception that says memory, room or another process is gone.
    """
    try:
        yield
    except NotFiniteError as error:
        if error.rows is None:
            raise
        run.log_json(_described(task, error, error.rows), BATCH_FILE)
        raise TrainingError(
            f"{error.what}; its {len(error.rows)} images are named in {BATCH_FILE}", mend=error.mend
        ) from error
    except Exception as error:
        ours = told(error, task.plan, world)
        if ours is None:
            raise
        raise ours from error


def told(error: Exception, plan: Plan, world: World) -> TrainingError | None:
    """Return what ``error`` means to who trains; ``None`` if it says nothing known."""
    text = str(error)
    if _is_memory(error, text):
        return out_of_memory(plan, world)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TrainingError(
            "no room is left on the disk",
            where=_disk_of(error),
            mend="make room, then go on where it was with --resume",
        )
    if world.size > 1 and isinstance(error, RuntimeError) and any(w in text for w in LOST_PEER):
        return TrainingError(
            f"another of the {world.size} processes of this training ended",
            where=f"process {world.rank}",
            mend="its own output says why; without a word it was killed, perhaps for want of "
            "memory. Go on where it was with --resume",
        )
    return None


def may_go_on(error: BaseException) -> bool:
    """Return whether the same plan, resumed, may end better than it did now."""
    if isinstance(error, TrainingError):
        return False
    return not (isinstance(error, Exception) and _is_memory(error, str(error)))


def out_of_memory(plan: Plan, world: World) -> TrainingError:
    """Return the error of a batch that did not fit, with the batch to try."""
    learning = plan.learning
    parts = f" in {learning.accumulate} parts" if learning.accumulate > 1 else ""
    memory = "the GPU's memory" if world.device.type == "cuda" else "memory"
    smaller = smaller_batch(plan)
    what = f"batch {learning.batch}{parts} did not fit into {memory}"
    if not smaller:
        mend = "try a smaller network.backbone, or smaller images"
        return TrainingError(what, where=BATCH, mend=mend)
    return TrainingError(
        f"{what}: try {smaller}",
        where=BATCH,
        mend=f"--set learning.batch={smaller}, or --set learning.accumulate="
        f"{2 * learning.accumulate}, which keeps the batch and takes it in parts",
    )


def _is_memory(error: Exception, text: str) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(words in text for words in NO_MEMORY)


def _disk_of(error: OSError) -> str:
    """Return the folder that is full. A library's file name may be of any kind."""
    name = error.filename2 or error.filename  # of a copy, where it was to go
    if isinstance(name, str) and name:
        return os.path.dirname(name) or "."  # noqa: PTH120 - may not exist
    with suppress(OSError):
        return tempfile.gettempdir()
    return ""


def _described(task: Task, error: NotFiniteError, rows: Ints) -> dict[str, object]:
    """Return a batch's images: manifest rows, digests, labels and statistics; no patient, no name."""
    pixels = task.dataset.pixels(rows)
    names = [output.label for output in task.head.outputs]
    images = [
        {
            "row": int(row),
            "pixel_sha256": sha256(np.ascontiguousarray(image).tobytes()),
            "labels": {
                name: int(value) for name, value in zip(names, task.targets[row], strict=True)
            },
            "lowest": int(image.min()),
            "highest": int(image.max()),
            "mean": round(float(image.mean()), 2),
            "spread": round(float(image.std()), 2),
        }
        for row, image in zip(rows, pixels, strict=True)
    ]
    return {
        "what": error.what,
        "epoch": error.epoch,
        "step": error.step,
        "dataset_sha256": task.info.content_sha256,
        "images": images,
    }
