"""From a task to a trained network: build it, then fit it on the training split."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from data_schemas.errors import TrainingError
from data_schemas.plan import Plan
from pipeline.train import augment, judge, labels, networks, weights
from pipeline.train.batches import Order, TrainingBatches, in_order
from pipeline.train.compiling import compiled
from pipeline.train.ensemble import AnyNetwork, answering
from pipeline.train.faults import naming_the_batch, told
from pipeline.train.keeping import keeper
from pipeline.train.kinds import naming_its_settings
from pipeline.train.labels import Floats, Ints
from pipeline.train.loop import CALMER, Fitted, Metrics, Training, fit
from pipeline.train.mixing import Mixing, Part
from pipeline.train.precision import suit
from pipeline.train.state import StateFolder
from pipeline.train.sync import share_statistics
from pipeline.train.task import Task
from pipeline.train.world import World, use_threads

Track = Callable[[int, int, Metrics | None], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Learned:
    """What a plan's training gives.

    ``network`` is what answers: all members, all views. Of several members, ``fitted.history``
    holds one member's epochs after the other's and ``best_epoch`` is the first member's;
    ``fitted.best`` always is of ``network``.
    """

    network: AnyNetwork
    fitted: Fitted
    licence: str
    notes: tuple[str, ...] = ()


def train_network(
    task: Task,
    world: World,
    track: Track,
    state: StateFolder | None = None,
    say: Say = lambda _: None,
) -> Learned:
    """Train the planned networks one after another, kind by kind, and return what answers for them.

    Member m starts from seed + m and sees another order and other augmentations. ``track`` hears
    of its epochs after those of the members before it. Each keeps its state in a folder of its
    own below ``state``, so that a stopped training goes on within the member it was at.
    """
    plan, plans = task.plan, task.plan.each()
    members, fits, licences, earlier = [], [], [], 0
    for number, seeded in enumerate(plans):
        own = replace(task, plan=seeded)
        use_threads(seeded.threads)
        heard = partial(_after, track, earlier)
        below = state.of_member(number) if state is not None and len(plans) > 1 else state
        second, why = number >= plan.network.members, partial(told, plan=seeded, world=world)
        with naming_its_settings(second=second, told=why):
            network, licence = build_network(own, world)
            fits.append(learn(network, own, world, heard, below, say))
        members.append(network)
        licences.append(licence)
        earlier += seeded.learning.epochs
    use_threads(plan.threads)
    licence = "; ".join(dict.fromkeys(filter(None, licences)))
    kinds = plan.kinds()
    together = answering(members, plan.network.views, [kind.network.members for kind in kinds])
    if together is members[0]:
        return Learned(together, fits[0], licence)
    best, notes = fits[0].best, []
    if world.is_first:
        rows = task.rows["tune"]
        logits = split_logits(together, task, rows, world, "fp32")
        best = judge.tune_metrics(task.head, logits, task.targets[rows])
    if len(plans) > 1:
        kept = ", ".join(str(fit.best_epoch) for fit in fits)
        seeds = f"{plan.seed} to {plans[-1].seed}"
        notes.append(f"{_who(kinds)}, seeds {seeds}, kept at epochs {kept}")
    fitted = Fitted(
        fits[0].best_epoch,
        best,
        sum(fit.epochs for fit in fits),
        any(fit.stopped_early for fit in fits),
        tuple(metrics for fit in fits for metrics in fit.history),
        tuple(sum(one.epochs for one in fits[:k]) + fit.best_epoch for k, fit in enumerate(fits)),
    )
    return Learned(together, fitted, licence, tuple(notes))


def _who(kinds: tuple[Plan, ...]) -> str:
    if len(kinds) == 1:
        return f"the mean of {kinds[0].network.members} networks"
    counts = (f"{kind.network.members} of {kind.network.backbone}" for kind in kinds)
    return f"the mean of two kinds of networks, each counting the same: {' and '.join(counts)}"


def _after(track: Track, earlier: int, epoch: int, step: int, metrics: Metrics | None) -> None:
    track(earlier + epoch, step, metrics)


def build_network(task: Task, world: World) -> tuple[networks.EvidenceNetwork, str]:
    """Return the planned network on its device, ready to learn, and its weights' licence."""
    torch.manual_seed(task.plan.seed)
    plan = task.plan.network
    network = networks.build(plan, task.head.columns, task.info.size)
    licence = weights.load(network, plan)
    given = labels.balance(task.head, task.targets[task.rows["train"]], "none")
    networks.set_prior(network, torch.tensor(given.bias, dtype=torch.float32))
    suit(network, world.device, task.plan.learning.precision)
    share_statistics(network, world)
    return network, licence


def learn(
    network: networks.EvidenceNetwork,
    task: Task,
    world: World,
    track: Track,
    state: StateFolder | None = None,
    say: Say = lambda _: None,
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

    swift = _compiled(network, task, world, say) if plan.learning.compile else network

    def loss_of(_network: torch.nn.Module, part: Part) -> torch.Tensor:
        with world.autocast(precision):
            logits = swift(part.images)[0]
        return objective(logits, part.targets, part.others, part.share) * part.weight

    with keeper(state, world, plan.learning.checkpoint_minutes) as keep:
        mixing = Mixing(plan.learning, plan.seed)
        training = Training(network, plan.learning, batches.steps, mixing)

        def validate(net: torch.nn.Module) -> Metrics:
            between = partial(keep, training)  # a stop need not wait for all of the tuning split
            logits = split_logits(net, task, rows["tune"], world, precision, between)
            if not np.isfinite(logits).all():  # its last step was one too far: no loss has seen it
                what = f"after epoch {training.epoch} the network's answers are no longer finite"
                raise TrainingError(what, mend=CALMER)
            tune = judge.tune_metrics(task.head, logits, task.targets[rows["tune"]])
            return {**tune, "time/waited_s": batches.waited_s}

        torch.manual_seed(plan.seed + world.rank)  # dropout
        keep.restore(training)
        with naming_the_batch(batches):
            return fit(training, batches, loss_of, validate, track, world, keep)


def _compiled(
    network: networks.EvidenceNetwork, task: Task, world: World, say: Say
) -> torch.nn.Module:
    learning = task.plan.learning
    rows = task.rows["train"][: max(2, learning.batch // learning.accumulate)]
    example = world.take(np.ascontiguousarray(task.dataset.pixels(rows)))
    return compiled(network, example, world, learning.precision, say)


def split_logits(
    network: torch.nn.Module,
    task: Task,
    rows: Ints,
    world: World,
    precision: str,
    between: Callable[[], None] = lambda: None,
) -> Floats:
    """Return the logits [N, K] of the images ``rows``, in order; ``between`` runs before each batch."""
    images = in_order(task.dataset, rows, max(16, task.plan.learning.batch), world, between)
    return judge.logits_of(network, images, world, precision)
