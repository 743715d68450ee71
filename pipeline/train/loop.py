"""The training loop: one screen of plain PyTorch. Everything it can be told is an argument."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from data_schemas.errors import TrainingError
from data_schemas.plan import Learning
from pipeline.train.world import World

Metrics = dict[str, float]
SCORE = "tune/auc"
"""The metric that stops and selects: higher is better. Where it is undefined, ``tune/loss`` does."""


class Epochs(Protocol):
    """Batches of any kind: ``steps`` of them per epoch, in an order that follows from the epoch."""

    @property
    def steps(self) -> int:
        """Batches per epoch."""

    def __call__(self, epoch: int) -> Iterator[Any]:
        """Yield the batches of ``epoch`` (1, 2, ...)."""


@dataclass(frozen=True)
class Fitted:
    """How a fit went. The network itself holds the weights of ``best_epoch``."""

    best_epoch: int
    best: Metrics
    epochs: int
    stopped_early: bool


def fit(
    network: nn.Module,
    batches: Epochs,
    learning: Learning,
    loss_of: Callable[[nn.Module, Any], Tensor],
    validate: Callable[[nn.Module], Metrics],
    track: Callable[[int, int, Metrics | None], None],
    world: World,
) -> Fitted:
    """Train ``network`` in place and leave it with the weights of its best epoch.

    ``validate(network)`` returns tune metrics; ``track(epoch, step, metrics)`` hears of every step
    (``metrics`` None) and of every finished epoch (with all of them).

    Raises
    ------
    TrainingError
        If a loss or gradient is not finite; no weight has moved by then.
    """
    optimiser, schedule = build_optimiser(network, learning, learning.epochs * batches.steps)
    average = Average(network, learning.average)
    best: tuple[tuple[float, float], int, Metrics, dict[str, Tensor]] | None = None
    epoch = 0
    for epoch in range(1, learning.epochs + 1):
        network.train()
        losses, norms, rate = 0.0, 0.0, schedule.get_last_lr()[0]
        for step, batch in enumerate(batches(epoch), start=1):
            loss = loss_of(network, batch)
            loss.backward()
            world.average_gradients(network)
            norm = clip_grad_norm_(network.parameters(), learning.gradient_norm)
            if not torch.isfinite(loss + norm):
                raise _not_finite(loss, norm, epoch, step)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
            average.update(network)
            losses, norms = losses + loss.item(), norms + norm.item()
            track(epoch, step, None)
        judged = average.network or network
        world.agree(judged)
        judged.eval()
        metrics = {"train/loss": losses / batches.steps, "train/grad_norm": norms / batches.steps}
        metrics |= {"train/lr": rate, **validate(judged)}
        track(epoch, batches.steps, metrics)
        if best is None or _rank(metrics) > best[0]:
            # a copy, not a reference: state_dict() would go on changing with the training
            best = (_rank(metrics), epoch, metrics, copy.deepcopy(judged.state_dict()))
        elif epoch - best[1] >= learning.patience:
            break
    if best is None:
        raise TrainingError("no epoch was trained", where="learning.epochs")
    network.load_state_dict(best[3])
    network.eval()
    return Fitted(best[1], best[2], epoch, epoch < learning.epochs)


def build_optimiser(
    network: nn.Module, learning: Learning, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return AdamW (Loshchilov & Hutter 2019) and its schedule over ``steps``.

    The rate rises linearly over the warm-up, then falls along a cosine to a hundredth. Weight
    decay leaves biases and normalisation (vectors) alone. Parameters whose name starts with
    ``head`` or is ``bias`` learn at ``head_rate`` times the rate.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        is_head = name.startswith("head") or name == "bias"
        groups.setdefault((is_head, parameter.ndim > 1), []).append(parameter)
    optimiser = torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": learning.rate * (learning.head_rate if is_head else 1.0),
                "weight_decay": learning.weight_decay if decays else 0.0,
            }
            for (is_head, decays), parameters in sorted(groups.items())
        ]
    )
    warmup = max(1, round(learning.warmup * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        share = (step - warmup) / max(1, steps - warmup)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


class Average:
    """The weights' exponential moving average (Polyak & Juditsky 1992); ``network`` is None if off.

    Early steps count for more, ``(1 + n) / (10 + n)``, so that the random start is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.network = copy.deepcopy(network) if decay > 0 else None

    def update(self, network: nn.Module) -> None:
        """Move the average towards ``network``; counters such as BatchNorm's are taken over."""
        if self.network is None:
            return
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        own, new = self.network.state_dict(), network.state_dict()
        with torch.no_grad():
            for name, value in own.items():
                if value.dtype.is_floating_point:
                    value.lerp_(new[name], share)
                else:
                    value.copy_(new[name])


def _rank(metrics: Metrics) -> tuple[float, float]:
    score = metrics.get(SCORE, math.nan)
    loss = metrics.get("tune/loss", math.inf)
    # with a class missing from the tune split there is no AUC: the lower loss decides
    return (round(score, 5) if math.isfinite(score) else 0.0, -loss)


def _not_finite(loss: Tensor, norm: Tensor, epoch: int, step: int) -> TrainingError:
    return TrainingError(
        f"loss {loss.item():g} and gradient norm {norm.item():g} in epoch {epoch}, step {step}",
        mend="lower learning.rate, lengthen learning.warmup, or use learning.precision fp32",
    )
