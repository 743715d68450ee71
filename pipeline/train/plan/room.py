"""Refuses a training whose memory isn't there, before it starts, and says what would fit."""

import math

from data_schemas.errors import TrainingError
from data_schemas.plan import Plan
from data_schemas.settings import Layer
from pipeline.train import labels
from pipeline.train.advice import smaller_batch
from pipeline.train.plan.cost import gigabytes
from pipeline.train.plan.estimate import Shape, measure_memory
from pipeline.train.plan.machine import memory_for
from pipeline.train.task import TrainingSet
from pipeline.train.world import World

_KEY = ("learning", "batch")


def batch_place(layers: list[Layer]) -> str:
    """Return where ``learning.batch`` was set: ``plan.yaml:14``, ``--set ...``, or a default."""
    places = [layer.places[_KEY] for layer in layers if _KEY in layer.places]
    return places[-1] if places else "the default of learning.batch"


def refuse_without_room(
    plan: Plan, dataset: TrainingSet, world: World, processes: int, place: str
) -> None:
    """Compare what a training will need at its peak with what is there.

    Parameters
    ----------
    processes
        How many processes of the training share this machine's memory.
    place
        Where ``learning.batch`` was set.

    Raises
    ------
    TrainingError
        If it doesn't fit; with the place of ``learning.batch`` and a batch that would fit.
    """
    info = dataset.info
    head = labels.resolve_head(plan, info)
    shape = Shape(head.columns, info.size, info.channels, train=0, tune=0)
    memory = measure_memory(plan, shape, world.device)
    on_gpu = world.device.type == "cuda"
    available = memory_for(world.device) // (1 if on_gpu else max(1, processes))
    learning = plan.learning
    own = math.ceil(learning.batch / world.size / learning.accumulate)
    needed = memory.bytes_at(own)
    if needed <= available:
        return
    fitting = memory.largest_batch(available) * learning.accumulate * world.size
    kind = "GPU memory" if on_gpu else "memory"
    what = (
        f"learning.batch: batch {learning.batch} needs {gigabytes(needed)} of {kind}, "
        f"you have {gigabytes(available)}"
    )
    if not fitting:
        raise TrainingError(
            what, where=place, mend="not one image fits: try a smaller network or smaller images"
        )
    parts = math.ceil(learning.batch * learning.accumulate / fitting)
    raise TrainingError(
        what,
        where=place,
        mend=f"try learning.batch {smaller_batch(plan, fitting)}, or learning.accumulate {parts}, "
        "which keeps the batch and takes it through the network in parts",
    )
