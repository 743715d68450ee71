"""The training loop: one screen of plain PyTorch. Everything it can be told is an argument."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_schemas.errors import TrainingError
from data_schemas.plan import Learning
from pipeline.train.world import World

Metrics = dict[str, float]
Parts = Callable[[Any, int, int], Iterable[Any]]
SCORE = "tune/auc"
"""The metric that stops and selects: higher is better. Where it is undefined, ``tune/loss`` does."""


CALMER = "lower learning.rate, lengthen learning.warmup, or use learning.precision fp32"
"""What to do about numbers that grow without end."""


class NotFiniteError(TrainingError):
    """A loss or gradient is not finite; the weights are those of the step before."""

    def __init__(self, loss: float, norm: float, epoch: int, step: int) -> None:
        self.epoch, self.step = epoch, step
        self.rows: NDArray[np.int64] | None = (
            None  # manifest rows of the batch, once they are known
        )
        super().__init__(
            f"loss {loss:g} and gradient norm {norm:g} in epoch {epoch}, step {step}",
            mend=CALMER,
        )


class Epochs(Protocol):
    """Batches of any kind: ``steps`` of them per epoch, in an order that follows from the epoch."""

    @property
    def steps(self) -> int:
        """Batches per epoch."""

    def __call__(self, epoch: int, after: int = 0) -> Iterator[Any]:
        """Yield the batches of ``epoch`` (1, 2, ...) that come after the first ``after`` ones."""


@dataclass(frozen=True)
class Fitted:
    """How a fit went. The network itself holds the weights of ``best_epoch``, the one that was kept.

    ``kept`` are the places in ``history``, from 1, of the epochs that were kept: one for each network.
    """

    best_epoch: int
    best: Metrics
    epochs: int
    stopped_early: bool
    history: tuple[Metrics, ...]
    kept: tuple[int, ...]


def _whole(batch: Any, _epoch: int, _step: int) -> Iterable[Any]:
    return (batch,)


class Training:
    """A fit between two steps: all that its next step depends on, but for the random generators.

    ``epoch`` is the one that is being trained (1, 2, ...) and ``step`` how many of its steps are
    done; ``losses`` and ``norms`` are their sums. ``best`` holds the weights of ``best_epoch``.
    ``parts(batch, epoch, step)`` says what of a batch goes through the network at a time; the
    losses of the parts add up to the batch's.
    """

    def __init__(
        self, network: nn.Module, learning: Learning, steps: int, parts: Parts = _whole
    ) -> None:
        self.network, self.learning, self.parts = network, learning, parts
        self.optimiser, self.schedule = build_optimiser(network, learning, learning.epochs * steps)
        self.average = Average(network, learning.average)
        self.epoch, self.step = 1, 0
        self.losses, self.norms = 0.0, 0.0
        self.rate = self.schedule.get_last_lr()[0]
        self.best_epoch = 0
        self.best: dict[str, Tensor] = {}
        self.history: list[Metrics] = []

    @property
    def is_over(self) -> bool:
        """Whether all epochs are trained, or patience has ended."""
        done = self.epoch - 1
        return done >= self.learning.epochs or (
            done > 0 and done - self.best_epoch >= self.learning.patience
        )

    def take_step(self, loss: float, norm: float) -> None:
        """Move the weights along their gradients, which are used up."""
        self.optimiser.step()
        self.schedule.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.average.update()
        self.step += 1
        self.losses, self.norms = self.losses + loss, self.norms + norm

    def end_epoch(self, judged: nn.Module, metrics: Metrics) -> None:
        """Keep the weights of ``judged`` if the plan says so of this epoch, and begin the next one."""
        self.history.append(metrics)
        wanted = self.learning.keep == "last" or not self.best
        if wanted or _rank(metrics) > _rank(self.history[self.best_epoch - 1]):
            self.best_epoch = self.epoch
            weights = judged.state_dict()
            if not self.best:
                self.best = {name: torch.empty_like(value) for name, value in weights.items()}
            # a copy, not a reference: state_dict() would go on changing with the training
            for name, value in weights.items():
                self.best[name].copy_(value)
        self.epoch, self.step = self.epoch + 1, 0
        self.losses, self.norms = 0.0, 0.0
        self.rate = self.schedule.get_last_lr()[0]


def fit(
    training: Training,
    batches: Epochs,
    loss_of: Callable[[nn.Module, Any], Tensor],
    validate: Callable[[nn.Module], Metrics],
    track: Callable[[int, int, Metrics | None], None],
    world: World,
    keep: Callable[[Training], None] = lambda _training: None,
) -> Fitted:
    """Carry ``training`` on to its end and leave its network with the weights of the kept epoch.

    ``validate(network)`` returns tune metrics; ``track(epoch, step, metrics)`` hears of every step
    (``metrics`` None) and of every finished epoch (with all of them). ``keep(training)`` is called
    after every step and every epoch: what it writes down is enough to go on from there, bit for
    bit, and what it raises stops the fit where nothing is half done.

    Raises
    ------
    TrainingError
        If a loss or gradient is not finite; no weight has moved by then.
    """
    network, learning = training.network, training.learning
    while not training.is_over:
        network.train()
        for batch in batches(training.epoch, training.step):
            losses = []
            for part in training.parts(batch, training.epoch, training.step):
                loss = loss_of(network, part)
                loss.backward()  # what the part kept for the way back is free again
                losses.append(loss.detach())
            world.average_gradients(network)
            norm = clip(network, learning.gradient_norm)
            # of all processes, so that all go on or all stop
            mean = world.mean(torch.stack(losses).sum().item())
            if not math.isfinite(mean + norm):
                raise NotFiniteError(mean, norm, training.epoch, training.step + 1)
            training.take_step(mean, norm)
            track(training.epoch, training.step, None)
            keep(training)
        judged = training.average.network or network
        world.agree(judged)
        judged.eval()
        metrics = {
            "train/loss": training.losses / batches.steps,
            "train/grad_norm": training.norms / batches.steps,
            "train/lr": training.rate,
            **validate(judged),
        }
        track(training.epoch, batches.steps, metrics)
        training.end_epoch(judged, metrics)
        keep(training)
    network.load_state_dict(training.best)
    network.eval()
    epochs, best = training.epoch - 1, training.best_epoch
    history = tuple(training.history)
    return Fitted(best, history[best - 1], epochs, epochs < learning.epochs, history, (best,))


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
        ],
        fused=True,  # one pass over the weights instead of a dozen; half the time, on a CPU too
    )
    warmup = max(1, round(learning.warmup * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        share = (step - warmup) / max(1, steps - warmup)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def clip(network: nn.Module, most: float) -> float:
    """Shorten the gradient to a norm of ``most`` at most (Pascanu et al. 2013); return its norm.

    A norm that isn't finite is returned with the gradient as it is.
    """
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    norms = torch._foreach_norm(gradients)  # noqa: SLF001 - what torch's own clipping calls
    norm = float(torch.linalg.vector_norm(torch.stack(norms)).item())
    if math.isfinite(norm) and norm > most:  # most steps need no second pass over the gradient
        torch._foreach_mul_(gradients, most / (norm + 1e-6))
    return norm


class Average:
    """The weights' exponential moving average (Polyak & Juditsky 1992); ``network`` is None if off.

    Early steps count for more, ``(1 + n) / (10 + n)``, so that the random start is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.network = copy.deepcopy(network) if decay > 0 else None
        self._own, self._counts = _tensors(self.network)
        self._new, self._new_counts = _tensors(network)

    def update(self) -> None:
        """Move the average towards the network as it is now.

        Counters such as BatchNorm's are taken over.
        """
        if self.network is None:
            return
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(self._own, self._new, share)
            for count, new in zip(self._counts, self._new_counts, strict=True):
                count.copy_(new)


def _tensors(network: nn.Module | None) -> tuple[list[Tensor], list[Tensor]]:
    """Return a network's own tensors, not copies: real numbers, and counters."""
    tensors = list(network.state_dict().values()) if network is not None else []
    real = [tensor for tensor in tensors if tensor.dtype.is_floating_point]
    return real, [tensor for tensor in tensors if not tensor.dtype.is_floating_point]


def _rank(metrics: Metrics) -> tuple[float, float]:
    score = metrics.get(SCORE, math.nan)
    loss = metrics.get("tune/loss", math.inf)
    # with a class missing from the tune split there is no AUC: the lower loss decides
    return (round(score, 5) if math.isfinite(score) else 0.0, -loss)
