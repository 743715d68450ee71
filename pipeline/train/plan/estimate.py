"""Measures what a plan will cost here: memory from what its network keeps, time from a few steps."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from data_schemas.plan import Plan
from pipeline.train import augment, networks
from pipeline.train.calibrating import CHECKED_IMAGES
from pipeline.train.ensemble import VIEWS
from pipeline.train.kinds import naming_its_settings
from pipeline.train.loop import Training
from pipeline.train.plan.cost import GIB, Estimate, Memory, Speed
from pipeline.train.plan.machine import memory_for
from pipeline.train.precision import suit
from pipeline.train.referring import MOST as MOST_REFERENCE
from pipeline.train.world import World, use_threads

PROCESS_BYTES = int(0.75 * GIB)
"""A training process without its network, at its peak: libraries, MLflow, figures, the export.

Measured as the peak of whole trainings less what :func:`measure_memory` says of their networks."""
GPU_BYTES = int(0.6 * GIB)
"""What CUDA and its libraries take on a GPU before the first image."""
COPIES = 6
"""Of the weights: themselves, gradients, two moments of AdamW, the moving and the best ones."""
WORKING_MAPS = 4
"""How many maps of the largest kind a step holds beside the kept ones: gradients, other layouts."""
BATCHES_AHEAD = 4
"""Batches that lie ready, are being made, or are in the network."""
AROUND_S = 15.0
"""Seconds of a run before and after its epochs: libraries, pages, export."""
TUNE_LOOKS = 3
"""How often the finished network is asked about the tuning split, in float32."""
KINDS_CHECKED = 4
"""Torch, and three runtimes and precisions, that answer the images of the export's check."""
FP32_OVER_BF16 = 1.7
"""A look in float32 against one in bf16, on processors that multiply bf16."""


@dataclass(frozen=True)
class Shape:
    """What a plan's cost depends on beside the plan: logits, and the data set's images."""

    outputs: int
    size: int
    channels: int
    train: int
    tune: int


def measure_memory(plan: Plan, shape: Shape, device: torch.device) -> Memory:
    """Return the memory that a plan's training takes at its peak.

    Two tiny batches go forward once; what autograd keeps of them for the way back is counted
    exactly. Nothing is allocated that a real batch would need, so this is safe where the real
    training would not fit.

    Raises
    ------
    TrainingError
        If there is no such network.
    """
    network = _network(plan, shape, device)
    world = World(device=device)
    kept: list[float] = []
    largest: list[float] = []
    batches = (2, 4)
    for batch in batches:
        sizes = _kept_bytes(network, _drawn(batch, shape, device), world, plan.learning.precision)
        kept.append(sum(sizes))
        largest.append(max(sizes, default=0))
    count = batches[1] - batches[0]
    image = max(kept[1] - kept[0], 0) / count + WORKING_MAPS * max(largest[1] / batches[1], 1)
    image += BATCHES_AHEAD * shape.size**2 * shape.channels
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    base = GPU_BYTES if device.type == "cuda" else PROCESS_BYTES
    return Memory(base + COPIES * weights + max(0.0, 2 * kept[0] - kept[1]), image)


def measure_speed(plan: Plan, shape: Shape, device: torch.device, seconds: float = 8.0) -> Speed:
    """Return how long the parts of an epoch take, by real steps at two small batch sizes.

    ``seconds`` bounds the steps, but for the very first one. Uses the threads that torch is set to.
    """
    network = _network(plan, shape, device)
    world = World(device=device)
    precision = plan.learning.precision
    training = Training(network, plan.learning, 1000)
    network.train()

    def step(images: Tensor) -> None:
        with world.autocast(precision):
            logits = network(images)[0]
        # any loss will do: its share of a step is nothing beside the network's
        logits.square().mean().backward()
        norm = clip_grad_norm_(network.parameters(), plan.learning.gradient_norm).item()
        training.take_step(0.0, norm)

    def look(images: Tensor) -> None:
        with torch.no_grad(), world.autocast(precision):
            network(images)

    part = max(1, math.ceil(plan.learning.batch / plan.learning.accumulate))
    small, large = max(2, part // 4), max(4, part // 2)
    few = _drawn(2, shape, device)
    started = time.perf_counter()
    step(few)  # the first one prepares kernels
    first_s = time.perf_counter() - started
    if (
        first_s * large > seconds
    ):  # a large network on a slow machine: the smallest that says something
        small, large = 2, 4
    times = [
        _least_s(partial(step, _drawn(batch, shape, device)), device, seconds / 3)
        for batch in (small, large)
    ]
    image_s = max((times[1] - times[0]) / (large - small), 0.3 * times[1] / large)
    network.eval()
    looking = partial(look, _drawn(large, shape, device))
    forward_s = _least_s(looking, device, seconds / 6) / large
    return Speed(
        step_s=max(0.0, times[1] - large * image_s),
        image_s=image_s,
        forward_s=forward_s,
        augment_s=_augment_s(plan, shape, seconds / 6),
        on_gpu=device.type == "cuda",
    )


def estimate(plan: Plan, shape: Shape, device: torch.device, seconds: float = 8.0) -> Estimate:
    """Measure memory and speed of a plan on ``device`` and return what its training will cost.

    ``seconds`` bound the timed steps of each kind of network.
    """
    plan, *others = plan.kinds()
    use_threads(plan.threads)
    threads = torch.get_num_threads()
    memory = measure_memory(plan, shape, device)
    if memory.largest_batch(memory_for(device)) < 4:
        speed = Speed(0.0, 0.0, 0.0, 0.0, device.type == "cuda")  # not even a trial step is safe
    else:
        speed = measure_speed(plan, shape, device, seconds)
    learning = plan.learning
    return Estimate(
        memory=memory,
        speed=speed,
        available_bytes=memory_for(device),
        device=str(device),
        cores=threads,
        images=shape.train,
        tune=shape.tune,
        batch=learning.batch,
        accumulate=learning.accumulate,
        epochs=learning.epochs,
        members=plan.network.members,
        around_s=AROUND_S,
        after_s=_after_s(plan, shape, speed),
        small_share=learning.small_epochs,
        beside=_beside(others[0], shape, device, seconds) if others else None,
    )


def _beside(plan: Plan, shape: Shape, device: torch.device, seconds: float) -> Estimate:
    with naming_its_settings(second=True):
        return estimate(plan, shape, device, seconds)


def _after_s(plan: Plan, shape: Shape, speed: Speed) -> float:
    """Return the seconds in which a finished network is asked: all its views, in float32."""
    looks = min(MOST_REFERENCE, shape.train) + TUNE_LOOKS * shape.tune
    looks += KINDS_CHECKED * min(CHECKED_IMAGES, shape.tune)
    slower = FP32_OVER_BF16 if plan.learning.precision == "bf16" else 1.0
    return looks * len(VIEWS[plan.network.views]) * slower * speed.forward_s


def _network(plan: Plan, shape: Shape, device: torch.device) -> networks.EvidenceNetwork:
    # one member, one view: what a training step does; starting weights change no cost
    one = plan.network.model_copy(update={"members": 1, "views": "one"})
    network = networks.build(one, shape.outputs, shape.size)
    suit(network, device, plan.learning.precision)
    return network


def _drawn(batch: int, shape: Shape, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sides = (batch, shape.size, shape.size, shape.channels)
    return torch.randint(0, 256, sides, dtype=torch.uint8, generator=generator).to(device)


def _kept_bytes(
    network: networks.EvidenceNetwork, images: Tensor, world: World, precision: str
) -> list[int]:
    """Return the bytes of each tensor that autograd keeps for the way back, weights left out."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    network.train()
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, world.autocast(precision):
        # held until all is counted: a freed tensor's place could be given to another one
        held = network(images)
    sizes = list(kept.values())
    del held
    return sizes


def _least_s(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return the least seconds of ``work`` on a quiet machine, repeated as ``seconds`` allow.

    On a processor that is busy with other work, threads wait for one another and burn its time. What
    a single thread works is the same then, and all of them together never take longer on their own.
    """
    if device.type == "cuda":
        return _repeated(work, time.perf_counter, seconds, lambda: torch.cuda.synchronize(device))
    threads = torch.get_num_threads()
    together = _repeated(work, time.perf_counter, seconds / 2)
    torch.set_num_threads(1)
    try:
        alone = _repeated(work, time.process_time, seconds / 2)
    finally:
        torch.set_num_threads(threads)
    return min(together, alone)


def _repeated(
    work: Callable[[], object],
    clock: Callable[[], float],
    seconds: float,
    finish: Callable[[], object] = lambda: None,
) -> float:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or (time.perf_counter() < end and len(times) < 9):
        started = clock()
        work()
        finish()
        times.append(clock() - started)
    return max(min(times), 1e-9)  # what else runs here only adds to it


def _augment_s(plan: Plan, shape: Shape, seconds: float) -> float:
    change = augment.policy(plan.augmentation, 0)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (8, shape.size, shape.size, shape.channels)).astype(
        np.uint8
    )
    ids = np.arange(len(images))
    change(images, ids, 0)  # the first one imports
    return _least_s(partial(change, images, ids, 1), torch.device("cpu"), seconds) / len(images)
