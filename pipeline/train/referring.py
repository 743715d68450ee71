"""What a trained network's own images look like to it: the reference that its package keeps."""

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.model.reference import Reference, Seen, looks, make_reference
from pipeline.train import judge
from pipeline.train.batches import in_order
from pipeline.train.ensemble import AnyNetwork
from pipeline.train.labels import Ints
from pipeline.train.task import Calibrated, Task
from pipeline.train.world import World

MOST = 4096
"""Training images that the shape is taken from: more change it by less than chance does."""


def reference_of(
    network: AnyNetwork, task: Task, calibrated: Calibrated, world: World
) -> Reference | None:
    """Return the reference of a network, ``None`` if there is one training image only.

    The shape of the embeddings comes from the training split, the limit and the histograms from the
    images that it was calibrated on, in fp32 and without augmentation.
    """
    rows, held = task.rows["train"], task.rows[calibrated.split]
    if len(rows) < 2:
        return None
    spread = np.linspace(0, len(rows) - 1, min(MOST, len(rows))).astype(np.int64)
    probabilities = {
        output.label: judge.positive(output, calibrated.logits) for output in calibrated.outputs
    }
    training, held_out = (_seen(network, task, some, world) for some in (rows[spread], held))
    return make_reference(training, held_out, calibrated.split, probabilities)


def _seen(network: AnyNetwork, task: Task, rows: Ints, world: World) -> Seen:
    embeddings: list[NDArray[np.float32]] = []
    looked: list[NDArray[np.float64]] = []
    with torch.no_grad():
        for batch in in_order(task.dataset, rows, max(16, task.plan.learning.batch), world):
            embeddings.append(network(batch)[2].float().cpu().numpy())
            looked.append(looks(batch.cpu().numpy()))
    return Seen(np.concatenate(embeddings), np.concatenate(looked))
