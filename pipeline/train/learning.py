"""From a task to a trained network: build it, then fit it on the training split."""

from collections.abc import Callable
from functools import partial

import torch

from pipeline.train import augment, judge, labels, networks, weights
from pipeline.train.batches import Batch, Order, TrainingBatches, in_order
from pipeline.train.keeping import keeper
from pipeline.train.labels import Floats, Ints
from pipeline.train.loop import Fitted, Metrics, Training, fit
from pipeline.train.state import StateFolder
from pipeline.train.sync import share_statistics
from pipeline.train.task import Task
from pipeline.train.world import World


def build_network(task: Task, world: World) -> tuple[networks.EvidenceNetwork, str]:
    """Return the planned network on its device, ready to learn, and its weights' licence."""
    torch.manual_seed(task.plan.seed)
    plan = task.plan.network
    network = networks.build(plan, task.head.columns, task.info.size)
    licence = weights.load(network, plan)
    given = labels.balance(task.head, task.targets[task.rows["train"]], "none")
    networks.set_prior(network, torch.tensor(given.bias, dtype=torch.float32))
    if task.plan.learning.precision == "bf16":
        network.to(memory_format=torch.channels_last)
    share_statistics(network, world)
    return network.to(world.device), licence


def learn(
    network: networks.EvidenceNetwork,
    task: Task,
    world: World,
    track: Callable[[int, int, Metrics | None], None],
    state: StateFolder | None = None,
) -> Fitted:
    """Fit ``network`` on the training split, stopped and selected by the tuning split.

    It goes on from the newest checkpoint in ``state``, if there is one.
    """
    plan, rows = task.plan, task.rows
    given = labels.balance(task.head, task.targets[rows["train"]], plan.learning.balance)
    batches = TrainingBatches(
        task.dataset,
        task.targets,
        Order(rows["train"], plan.seed, given.chance),
        plan.learning.batch,
        augment.policy(plan.augmentation, plan.seed),
        world,
    )
    objective = labels.Objective(task.head, given, plan.learning.label_smoothing, world.device)
    precision = plan.learning.precision

    def loss_of(net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        assert isinstance(net, networks.EvidenceNetwork)  # noqa: S101 - for the type checker
        with world.autocast(precision):
            maps = net.features(batch.images)
        return objective(net.judge(maps.float())[0], batch.targets) * batch.weight

    with keeper(state, world, plan.learning.checkpoint_minutes) as keep:
        training = Training(network, plan.learning, batches.steps)

        def validate(net: torch.nn.Module) -> Metrics:
            assert isinstance(net, networks.EvidenceNetwork)  # noqa: S101 - for the type checker
            between = partial(keep, training)  # a stop need not wait for all of the tuning split
            logits = split_logits(net, task, rows["tune"], world, precision, between)
            tune = judge.tune_metrics(task.head, logits, task.targets[rows["tune"]])
            return {**tune, "time/waited_s": batches.waited_s}

        torch.manual_seed(plan.seed + world.rank)  # dropout
        keep.restore(training)
        return fit(training, batches, loss_of, validate, track, world, keep)


def split_logits(
    network: networks.EvidenceNetwork,
    task: Task,
    rows: Ints,
    world: World,
    precision: str,
    between: Callable[[], None] = lambda: None,
) -> Floats:
    """Return the logits [N, K] of the images ``rows``, in order; ``between`` runs before each batch."""
    images = in_order(task.dataset, rows, max(16, task.plan.learning.batch), world, between)
    return judge.logits_of(network, images, world, precision)
