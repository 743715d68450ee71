"""Calibration: a temperature and, where it pays, a shift per logit, so that probabilities mean what they say.

The likelihood is that of the output's link: a sigmoid (then this is Platt's scaling, Platt 1999), a
softmax (temperature scaling, Guo et al. 2017; with shifts bias-corrected temperature scaling,
Alexandari et al. 2020), or a sigmoid for each step of a scale of grades (cumulative link).

A small penalty keeps few images from deciding much: log T and the shifts are drawn towards 0 as by
normal priors of standard deviation 0.5 and 2. Which method stands is decided by the log-loss of the
verdict in cross-validation by patient: the better one of temperature alone and temperature with
shifts, and no calibration only where that is better by more than one standard error of the
difference. On simulated networks this loses little to knowing the right method beforehand, and less
than taking the simplest within one standard error, which mostly keeps logits that are too sure
(``benchmarks/calibration``).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from data_schemas.card import Output
from data_schemas.errors import UsageError
from pipeline.evaluate.bootstrap import highest_labels
from pipeline.evaluate.statistics import TINIEST
from pipeline.model import decision

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Method = Literal["none", "temperature", "bias"]

COLDEST, HOTTEST = 0.05, 20.0
"""Range of temperatures looked at; a fit at its end says that the data hold no answer."""

WIDEST = 10.0
"""Largest shift, in logits."""

PENALTY = (4.0, 0.25)
"""1 / variance of the priors of log T and of each shift."""

FEWEST = 10
"""Images on either side that a column's shift needs (ten events a parameter, Peduzzi et al. 1996)."""

FOLDS = 5


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was fitted; ``note`` is empty when the data determined all that was asked for."""

    method: Method
    temperature: float
    shift: tuple[float, ...]  # one a column, or empty
    loss_before: float  # mean negative log-likelihood of the split, as the network gave it
    loss_after: float
    note: str = ""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Cross-validated log-loss of the verdict by method; empty if it was not worked out."""

    def applied(self, output: Output) -> Output:
        """Return the output with this temperature and shift."""
        return output.model_copy(update={"temperature": self.temperature, "shift": self.shift})


def fit_calibration(
    logits: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    output: Output,
    how: Method = "bias",
    patients: NDArray[np.str_] | None = None,
) -> Calibration:
    """Fit what the calibration split supports, up to ``how``.

    Parameters
    ----------
    logits
        All of the network's logits, [N, K]; the output's own columns are taken.
    labels
        Known classes 0..C-1, [N].
    output
        Says which columns, by which link, and which classes are positive.
    how
        The most that may be fitted: ``none``, ``temperature``, ``bias``.
    patients
        Whose images these are, [N]: a patient is whole in one fold; ``None``: each its own.

    Raises
    ------
    UsageError
        If a logit isn't finite, or a label is none of the output's classes.
    """
    values, truth = _checked(logits, labels, output)
    if truth.size == 0:
        return Calibration("none", 1.0, (), math.nan, math.nan, _kept("no images to calibrate on"))
    wanted = _wanted(truth, output)
    before = _loss(values, wanted, output, 1.0, 0.0)
    plain = Calibration("none", 1.0, (), before, before)
    if how == "none":
        return plain
    reason, remark = _undetermined(values, wanted, output)
    if reason:
        return Calibration("none", 1.0, (), before, before, _kept(reason))
    methods: list[Method] = ["none", "temperature"]
    remarks = [remark] if remark else []
    if how == "bias":
        lacking = _lacking(values, wanted, output)
        methods += [] if lacking else ["bias"]
        remarks += [f"temperature only, no shift: {lacking}"] if lacking else []
    chosen, losses, doubt = _compared(
        (np.asarray(logits, np.float64), truth), output, methods, patients
    )
    remarks += [doubt] if doubt else []
    temperature, shift = fitted(values, wanted, output, chosen)
    after = _loss(values, wanted, output, temperature, np.asarray(shift or 0.0))
    return Calibration(chosen, temperature, shift, before, after, "; ".join(remarks), losses)


def fitted(
    values: Floats,
    wanted: Floats,
    output: Output,
    method: Method,
    penalty: tuple[float, float] = PENALTY,
) -> tuple[float, tuple[float, ...]]:
    """Return the temperature and the shifts of highest penalised likelihood.

    Parameters
    ----------
    values, wanted
        The output's logits and what its columns should have said, 0 or 1; both [N, columns].
    penalty
        1 / variance of the priors of log T and of a shift; (0, 0): plain maximum likelihood.
    """
    if method == "none":
        return 1.0, ()
    columns = values.shape[1] if method == "bias" else 0
    weights = np.array([penalty[0]] + [penalty[1]] * columns) / len(values)

    def objective(at: Floats) -> tuple[float, Floats]:
        cold = math.exp(-at[0])
        shift = at[1:] if columns else np.zeros(1)
        loss, slope = _slope(values * cold + shift, wanted, output)
        down = -float((slope * values).sum(axis=1).mean()) * cold
        gradient = np.concatenate([[down], slope.mean(axis=0) if columns else []])
        return loss + 0.5 * float(weights @ at**2), gradient + weights * at

    bounds = [(math.log(COLDEST), math.log(HOTTEST))] + [(-WIDEST, WIDEST)] * columns
    start = np.zeros(1 + columns)
    options = {"maxiter": 500, "ftol": 1e-14, "gtol": 1e-9}
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    ).x
    return math.exp(float(found[0])), tuple(float(value) for value in found[1:])


def _slope(z: Floats, wanted: Floats, output: Output) -> tuple[float, Floats]:
    """Return the mean loss of scaled logits and its slope in each of them (times N)."""
    if output.link == "softmax" and z.shape[1] > 1:
        total = logsumexp(z, axis=1, keepdims=True)
        loss = float(np.mean(total[:, 0] - (z * wanted).sum(axis=1)))
        return loss, np.exp(z - total) - wanted
    loss = float(np.mean((np.logaddexp(0.0, z) - wanted * z).sum(axis=1)))
    return loss, expit(z) - wanted


def _loss(
    values: Floats, wanted: Floats, output: Output, temperature: float, shift: float | Floats
) -> float:
    return _slope(values / temperature + shift, wanted, output)[0]


def _wanted(truth: Integers, output: Output) -> Floats:
    columns = len(output.columns)
    if output.link == "cumulative":
        return (truth[:, None] > np.arange(columns)).astype(np.float64)
    if columns == 1:
        return truth[:, None].astype(np.float64)
    return np.eye(columns)[truth]


def _undetermined(values: Floats, wanted: Floats, output: Output) -> tuple[str, str]:
    """Return why nothing can be fitted, or else what must be said of the fit."""
    sums = wanted.sum(axis=0)
    if not ((sums > 0) & (sums < len(wanted))).any():
        return "the calibration split holds one class only", ""
    # without a penalty the likelihood grows without end where all images are on the right side
    temperature, _ = fitted(values, wanted, output, "temperature", (0.0, 0.0))
    if temperature < COLDEST * 1.01:
        return "the logits separate the calibration split fully", ""
    if temperature > HOTTEST / 1.01:
        return "", "the logits say nothing about this label, or the wrong way round"
    return "", ""


def _lacking(values: Floats, wanted: Floats, output: Output) -> str:
    """Return what a shift per column lacks, or nothing."""
    with_it = wanted.sum(axis=0)
    fewest = int(np.minimum(with_it, len(wanted) - with_it).min())
    if fewest < FEWEST:
        return f"a column has {fewest} images on one side, {FEWEST} needed"
    for column, own in zip(values.T, wanted.T, strict=True):
        if output.link == "cumulative" or len(output.columns) == 1:
            yes, no = column[own == 1], column[own == 0]
            if yes.min() > no.max() or yes.max() < no.min():
                return "a threshold separates a column's images fully"
    return ""


def _compared(
    data: tuple[Floats, Integers],
    output: Output,
    methods: list[Method],
    patients: NDArray[np.str_] | None,
) -> tuple[Method, dict[str, float], str]:
    """Return the method that stands, each one's cross-validated loss, and a remark."""
    logits, truth = data
    names = np.arange(truth.size).astype(np.str_) if patients is None else np.asarray(patients)
    losses, count = cross_validated(logits, truth, output, methods, names)
    if count < 2:
        return "temperature", {}, "too few patients to check the temperature by cross-validation"
    means = {method: float(loss.mean()) for method, loss in losses.items()}
    best: Method = min(methods[1:], key=means.__getitem__)
    gain = losses[best] - losses["none"]
    chosen: Method = "none" if gain.mean() > _standard_error(gain, names) else best
    doubt = (
        f"not calibrated: it made the log-loss {means[best]:.3f} in cross-validation, "
        f"{means['none']:.3f} without"
        if chosen == "none"
        else ""
    )
    return chosen, {str(method): mean for method, mean in means.items()}, doubt


def cross_validated(
    logits: Floats,
    truth: Integers,
    output: Output,
    methods: list[Method],
    patients: NDArray[np.str_],
) -> tuple[dict[Method, Floats], int]:
    """Return each method's log-loss of the verdict on every image, fitted without its fold.

    Also the number of folds; below 2 there are too few patients, and no losses.
    """
    fold, count = _folds(np.isin(truth, output.positive_classes).astype(np.int64), patients)
    if count < 2:
        return {}, count
    values, wanted = logits[:, list(output.columns)], _wanted(truth, output)
    losses = {method: np.empty(truth.size) for method in methods}
    for turn in range(count):
        rest, own = fold != turn, fold == turn
        for method in methods:
            temperature, shift = fitted(values[rest], wanted[rest], output, method)
            tried = output.model_copy(update={"temperature": temperature, "shift": shift})
            losses[method][own] = _verdict_losses(tried, logits[own], truth[own])
    return losses, count


def _verdict_losses(output: Output, logits: Floats, truth: Integers) -> Floats:
    found = np.clip(decision.of_positive(output, logits), TINIEST, 1 - TINIEST)
    losses: Floats = -np.log(np.where(np.isin(truth, output.positive_classes), found, 1 - found))
    return losses


def _standard_error(differences: Floats, patients: NDArray[np.str_]) -> float:
    """Return the standard error of a mean over images, counting patients as the independent ones."""
    _, place = np.unique(patients, return_inverse=True)
    sums = np.bincount(place, weights=differences - differences.mean())
    count = sums.size
    return float(np.sqrt(np.sum(sums**2) * count / max(count - 1, 1))) / differences.size


def _folds(positive: Integers, patients: NDArray[np.str_]) -> tuple[Integers, int]:
    """Deal patients to folds, those with and without a positive image evenly; [N] and how many."""
    highest = highest_labels(positive, patients)
    _, first, place = np.unique(patients, return_index=True, return_inverse=True)
    count = min(FOLDS, int(highest.sum()), int((1 - highest).sum()))
    if count < 2:
        return np.zeros(positive.size, np.int64), count
    dealt = np.empty(highest.size, np.int64)
    dealt[np.lexsort((first, highest))] = np.arange(highest.size) % count
    return dealt[place], count


def _checked(
    logits: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], output: Output
) -> tuple[Floats, Integers]:
    truth = np.asarray(labels, dtype=np.int64)
    everything = np.asarray(logits, dtype=np.float64)
    if everything.ndim != 2 or len(everything) != truth.size:
        raise UsageError(f"logits {everything.shape} and labels {truth.shape} don't fit")
    if everything.shape[1] <= max(output.columns):
        raise UsageError(f"{output.label} has columns {output.columns}, got {everything.shape[1]}")
    values = everything[:, list(output.columns)]
    if not np.isfinite(values).all():
        raise UsageError("logits must be finite to be calibrated")
    if truth.size and not ((truth >= 0) & (truth < len(output.classes))).all():
        raise UsageError(f"labels must lie in 0..{len(output.classes) - 1}")
    return values, truth


def _kept(reason: str) -> str:
    return f"{reason}: temperature 1 kept"
