"""The training loop against a bare loop: same network, same images, same number of steps.

    python benchmarks/train/run.py

The bare loop gathers batches, computes the loss and steps; ours also augments, clips, schedules,
checks for non-finite values and keeps the books. One thread.
"""

import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from timing import interleaved, table  # noqa: E402

from data_schemas.plan import Augmentation, Learning, NetworkPlan  # noqa: E402
from pipeline.train import augment, networks  # noqa: E402
from pipeline.train.batches import Batch, Order, TrainingBatches  # noqa: E402
from pipeline.train.loop import Training, fit  # noqa: E402
from pipeline.train.world import World  # noqa: E402

PLAIN = Augmentation(enabled=False)


class Store:
    """Random images in memory."""

    def __init__(self, images: int, size: int) -> None:
        shape = (images, size, size, 3)
        self._pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        return self._pixels[indices]


def loss_of(network: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Return binary cross-entropy."""
    logits = network(batch.images)[0]
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.targets.float())


def bare(network: torch.nn.Module, batches: TrainingBatches) -> None:
    """Run one epoch and nothing else."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    network.train()
    for batch in batches(1):
        loss_of(network, batch).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rows: list[tuple[object, ...]] = []
    for backbone, size, batch, images in (("convnet", 28, 128, 1024), ("resnet18", 224, 16, 32)):
        store, indices = Store(images, size), np.arange(images)
        targets = (indices % 2)[:, None].astype(np.int64)
        plan = Learning(epochs=1, batch=batch)

        def batches(policy: Augmentation, plan=plan, store=store, indices=indices, targets=targets):
            change = augment.policy(policy, 0)
            order = Order(indices, 0)
            return TrainingBatches(store, targets, order, plan.batch, change, World())

        def network(backbone=backbone, size=size):
            torch.manual_seed(0)
            return networks.build(NetworkPlan(backbone=backbone), 1, size)

        def ours(policy: Augmentation, plan=plan, network=network, batches=batches):
            silent = lambda *_: None  # noqa: E731
            metrics = lambda _: {"tune/auc": 0.5, "tune/loss": 1.0}  # noqa: E731
            made = batches(policy)
            training = Training(network(), plan, made.steps)
            fit(training, made, loss_of, metrics, silent, World())

        variants = {
            "bare": lambda: bare(network(), batches(PLAIN)),
            "loop": lambda: ours(PLAIN),
            "loop, augmented": lambda: ours(Augmentation()),
        }
        spent = interleaved(variants, 5)
        for name, value in spent.items():
            share = f"{spent['bare'] / value:.2f}"
            rows.append((backbone, size, name, f"{value / images:.2f}", share))
    print(table(("network", "px", "variant", "CPU ms / image", "bare / variant"), rows))


if __name__ == "__main__":
    main()
