"""Training speed on a GPU: our loop, with its data, against the network alone and the roofline.

    python benchmarks/gpu_train/run.py
    python benchmarks/gpu_train/run.py --network resnet18 --size 224 --batch 256

bf16 in channels-last order, with and without torch.compile. "network alone" trains on one batch
that lies on the GPU: no data, no augmentation. "our loop" is what `hilum train` does: pictures are
gathered from the memory map and changed on the processor's cores, then sent as uint8. One core
changes some thousand pictures of 224 px a second (benchmarks/train), so a few cores feed a GPU, and
the pictures are the same as on a machine without one.

The exit code is 77 where there is no GPU: nothing was measured.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
HERE = ("", "benchmarks", "benchmarks/train", "benchmarks/gpu_train")
sys.path[:0] = [str(ROOT / folder) for folder in HERE]

import measure  # noqa: E402
from measure import Found  # noqa: E402
from paths import RATE, Case, Ours, Store  # noqa: E402
from timing import table  # noqa: E402

from pipeline.train.batches import Batch  # noqa: E402
from pipeline.train.world import World, close_world, open_world  # noqa: E402

NOTHING_MEASURED = 77


def loss_of(world: World, *, compiled: bool) -> Callable[[torch.nn.Module, Batch], torch.Tensor]:
    """Return the loss in bf16; with ``compiled`` the backbone goes through torch.compile."""
    made: list[Callable[[torch.Tensor], torch.Tensor]] = []

    def loss(network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        if not made:
            made.append(torch.compile(network.features) if compiled else network.features)
        with world.autocast("bf16"):
            maps = made[0](batch.images)
        logits = network.judge(maps.float())[0]
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.targets.float())

    return loss


def alone(case: Case, world: World, *, compiled: bool) -> Callable[[], int]:
    """Return some steps on one batch that stays where it is."""
    network = case.suited("bf16", world.device)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, fused=True)
    loss, steps = loss_of(world, compiled=compiled), case.images // case.batch
    shape = (case.batch, case.size, case.size, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=world.device)
    batch = Batch(images, torch.ones(case.batch, 1, device=world.device))

    def work() -> int:
        for _ in range(steps):
            loss(network, batch).backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return steps * case.batch

    return work


def measured(case: Case, world: World, seconds: float, *, compiles: bool) -> list[Found]:
    """Measure all variants."""
    cost = measure.gflop_per_image(case.network().to(world.device), case.size)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch), case)
        for compiled in (False, True) if compiles else (False,):
            after = ", compiled" if compiled else ""
            steps = alone(case, world, compiled=compiled)
            found.append(one(f"network alone{after}", steps, cost, world, seconds))
            loop = Ours(case, store, "bf16", world, loss_of(world, compiled=compiled))

            def epoch(loop: Ours = loop) -> int:
                loop()
                return case.images

            with_data = one(f"our loop{after}", epoch, cost, world, seconds)
            waited = statistics.median(loop.waited_s[1:]) * with_data.images_per_s / case.images
            found.append(replace(with_data, waited=waited))
    return found


def one(name: str, work: Callable[[], int], cost: float, world: World, seconds: float) -> Found:
    """Measure one variant."""
    on_gpu = world.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(world.device)
    with measure.watched(world.device) as heard:
        speed = measure.timed(work, world.device, seconds)
    memory = torch.cuda.max_memory_allocated(world.device) / 2**30 if on_gpu else float("nan")
    return Found(name, speed, cost, 0.0, measure.middle(heard), memory)


def rows_of(found: list[Found], peak: float) -> list[tuple[object, ...]]:
    """Return the table's rows; ``peak`` is the measured matmul rate."""
    return [
        (
            each.name,
            f"{each.images_per_s:.0f}",
            "–" if np.isnan(each.busy) else f"{each.busy:.0f}",
            f"{100 * each.waited:.1f}",
            f"{each.tflops:.2f}",
            f"{100 * each.tflops / peak:.1f}",
            "–" if np.isnan(each.memory_gib) else f"{each.memory_gib:.1f}",
        )
        for each in found
    ]


def main(words: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", default="resnet18", help="of pipeline.train.networks")
    parser.add_argument("--size", type=int, default=224, help="px")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--images", type=int, default=4096, help="in an epoch")
    parser.add_argument("--seconds", type=float, default=15.0, help="per variant")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--device", default="cuda", help="cpu only to try the command itself")
    options = parser.parse_args(words)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("no GPU that torch can use is here: nothing was measured", file=sys.stderr)
        return NOTHING_MEASURED
    started = time.perf_counter()
    world = open_world(options.device, 0, 0)
    case = Case(options.network, options.size, options.batch, options.images)
    try:
        on_gpu = world.device.type == "cuda"
        peak = measure.matmul_tflops(world.device, *(() if on_gpu else (512, 4)))
        found = measured(case, world, options.seconds, compiles=not options.no_compile)
    finally:
        close_world(world)
    name = torch.cuda.get_device_name(world.device) if on_gpu else "the processor"
    cost = found[0].gflop_per_image
    print(
        f"{name}: {peak:.3g} TFLOP/s in bf16 matrix products. {case.backbone} at {case.size} px, "
        f"batch {case.batch}: {cost:.2f} GFLOP per image, forward and backward, so at most "
        f"{1000 * peak / cost:.0f} images/s.\n"
    )
    head = ("variant", "images / s", "GPU busy, %", "waiting for data, %", "TFLOP/s")
    print(table((*head, "of the products' rate, %", "memory, GiB"), rows_of(found, peak)))
    print(f"\n{time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
