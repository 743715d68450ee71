"""Refuses a training whose memory isn't there, before it starts, and says what would fit."""

import math

from data_schemas.errors import TrainingError
from data_schemas.plan import Plan
from pipeline.train import labels
from pipeline.train.advice import smaller_batch
from pipeline.train.faults import BATCH
from pipeline.train.kinds import naming_its_settings
from pipeline.train.plan.cost import gigabytes
from pipeline.train.plan.estimate import Shape, measure_memory
from pipeline.train.plan.machine import memory_for
from pipeline.train.task import TrainingSet
from pipeline.train.world import World


def refuse_without_room(plan: Plan, dataset: TrainingSet, world: World, processes: int) -> None:
    """Compare what a training will need at its peak with what is there.

    Parameters
    ----------
    processes
        How many processes of the training share this machine's memory.

    Raises
    ------
    TrainingError
        If it doesn't fit; where ``learning.batch`` or ``beside.batch``, with a batch that would fit.
    """
    for place, kind in enumerate(plan.kinds()):
        with naming_its_settings(second=place > 0):
            _refuse(kind, dataset, world, processes)


def _refuse(plan: Plan, dataset: TrainingSet, world: World, processes: int) -> None:
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
        f"batch {learning.batch} needs {gigabytes(needed)} of {kind}, "
        f"you have {gigabytes(available)}"
    )
    if not fitting:
        raise TrainingError(
            what, where=BATCH, mend="not one image fits: try a smaller network or smaller images"
        )
    parts = math.ceil(learning.batch * learning.accumulate / fitting)
    raise TrainingError(
        what,
        where=BATCH,
        mend=f"try learning.batch {smaller_batch(plan, fitting)}, or learning.accumulate {parts}, "
        "which keeps the batch and takes it through the network in parts",
    )
