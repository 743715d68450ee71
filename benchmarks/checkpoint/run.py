"""What a checkpoint costs: milliseconds, megabytes, and its share of an epoch.

    python benchmarks/checkpoint/run.py

Each row trains some steps, then packs and writes checkpoints of that training to the folder of
temporary files, as `hilum train` does: digest, flush to disk and rename included. One thread.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from timing import table  # noqa: E402

from data_schemas.files import sha256, write_bytes  # noqa: E402
from data_schemas.plan import Learning, NetworkPlan  # noqa: E402
from pipeline.train import networks  # noqa: E402
from pipeline.train.checkpoint import generators_of, pack  # noqa: E402
from pipeline.train.loop import Training  # noqa: E402

ROUNDS = 7
# backbone, pixels, batch, precision, training images of the data set that the row stands for
ROWS = (
    ("efficientnet_lite0", 320, 16, "bf16", 800),
    ("resnet18", 224, 16, "fp32", 800),
    ("convnet", 28, 64, "fp32", 4708),
)


def step(training: Training, images: torch.Tensor, precision: str) -> float:
    """Take one step; return its wall-clock seconds."""
    started = time.perf_counter()
    training.network.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits = training.network(images)[0]
    logits.float().square().mean().backward()
    training.take_step(0.0, 0.0)
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rows: list[tuple[object, ...]] = []
    for backbone, size, batch, precision, images in ROWS:
        torch.manual_seed(0)
        network = networks.build(NetworkPlan(backbone=backbone), 1, size)
        if precision == "bf16":
            network.to(memory_format=torch.channels_last)
        training = Training(network, Learning(average=0.98), 100)
        pixels = torch.from_numpy(
            np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
        )
        steps = statistics.median(step(training, pixels, precision) for _ in range(4))
        training.end_epoch(network, {"tune/auc": 0.5, "tune/loss": 1.0})
        packing, writing, cpu, data = [], [], [], b""
        with tempfile.TemporaryDirectory() as folder:
            for place in range(ROUNDS):
                begun, begun_cpu = time.perf_counter(), time.process_time()
                data = pack(training, [generators_of(torch.device("cpu"))], {})
                packed = time.perf_counter()
                write_bytes(Path(folder) / f"{place}-{sha256(data)[:16]}", data)
                writing.append(time.perf_counter() - packed)
                packing.append(packed - begun)
                cpu.append(time.process_time() - begun_cpu)
        spent = statistics.median(packing) + statistics.median(writing)
        epoch = steps * images / batch
        rows.append(
            (
                f"{backbone}, {size} px, {precision}",
                f"{len(data) / 1e6:.1f}",
                f"{1000 * statistics.median(packing):.0f}",
                f"{1000 * statistics.median(writing):.0f}",
                f"{1000 * statistics.median(cpu):.0f}",
                f"{images} images, {epoch:.1f} s",
                f"{100 * spent / epoch:.2f} %",
            )
        )
    head = ("training", "MB", "pack, ms", "write, ms", "CPU, ms", "epoch", "share of it")
    print(table(head, rows))


if __name__ == "__main__":
    main()
