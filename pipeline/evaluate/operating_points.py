"""Thresholds chosen on the calibration split by a stated rule, then frozen into the card.

An image is positive when its calibrated probability is at or above the threshold. A threshold
stands midway between two neighbouring probabilities of the calibration split, so that rounding in
another runtime doesn't turn an image over. Rules: target with a one-sided 95 % Clopper-Pearson
lower bound, Youden's index, two thresholds. A target that the split can't support falls back to
Youden's index, and ``OperatingPoint.note`` says so.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.card import OperatingPoint
from data_schemas.errors import UsageError
from data_schemas.plan import OperatingRule
from pipeline.evaluate.statistics import clopper_pearson_lower

CONFIDENCE = 0.95
FALLBACK_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Every threshold worth looking at, from the lowest to the highest, and what it does."""

    thresholds: NDArray[np.float64]
    found: NDArray[np.int64]  # positives at or above each threshold
    spared: NDArray[np.int64]  # negatives below each threshold
    positives: int
    negatives: int

    def point(self, index: int) -> tuple[float, float, float]:
        """Return threshold, sensitivity and specificity."""
        return (
            float(self.thresholds[index]),
            int(self.found[index]) / self.positives,
            int(self.spared[index]) / self.negatives,
        )


def choose(
    labels: NDArray[np.integer[Any]],
    probabilities: NDArray[np.floating[Any]],
    rule: OperatingRule,
    *,
    label: str,
) -> OperatingPoint:
    """Choose the operating point of one label on the calibration split.

    Parameters
    ----------
    labels
        1 where the image is positive, else 0, [N].
    probabilities
        Calibrated probability of being positive, [N].
    rule
        What to reach.
    label
        Its name, for the card.

    Raises
    ------
    UsageError
        If the arrays don't fit each other, or a probability isn't one.
    """
    truth, values = _checked(labels, probabilities)
    positives = int(truth.sum())
    if positives in (0, truth.size):
        return _undefined(truth.size, positives, label)
    candidates = _candidates(truth, values)
    if rule.rule == "two_thresholds":
        return _two(candidates, rule, label)
    index, name, note = _one(candidates, rule)
    return _described(candidates, index, index, name, note, label)


def _one(candidates: _Candidates, rule: OperatingRule) -> tuple[int, str, str]:
    if rule.rule == "youden":
        return _youden(candidates), "youden", ""
    of_sensitivity = rule.rule == "sensitivity"
    reach = _sensitivity if of_sensitivity else _specificity
    index = reach(candidates, rule.target)
    if index is None:
        total = candidates.positives if of_sensitivity else candidates.negatives
        return _youden(candidates), "youden", _unsupported(rule.rule, rule.target, total)
    return index, _named(rule.rule, rule.target), _degenerate(index)


def _two(candidates: _Candidates, rule: OperatingRule, label: str) -> OperatingPoint:
    lower = _sensitivity(candidates, rule.target)
    upper = _specificity(candidates, rule.target_specificity)
    if lower is None or upper is None:
        missing = [
            _unsupported(*fact)
            for index, fact in (
                (lower, ("sensitivity", rule.target, candidates.positives)),
                (upper, ("specificity", rule.target_specificity, candidates.negatives)),
            )
            if index is None
        ]
        index = _youden(candidates)
        return _described(candidates, index, index, "youden", "; ".join(missing), label)
    name = (
        f"{_named('sensitivity', rule.target)} below, "
        f"{_named('specificity', rule.target_specificity)} above"
    )
    if upper <= lower:
        # the lower threshold already spares enough negatives: nothing is left between the two
        note = "one threshold meets both targets"
        return _described(candidates, lower, lower, name, note, label)
    return _described(candidates, lower, upper, name, "", label)


def _sensitivity(candidates: _Candidates, target: float) -> int | None:
    """Return the highest threshold whose bound on sensitivity reaches the target."""
    # the bound falls with the threshold, so the first hit from above is the highest
    for index in range(candidates.thresholds.size - 1, -1, -1):
        count = int(candidates.found[index])
        if clopper_pearson_lower(count, candidates.positives, CONFIDENCE) >= target:
            return index
    return None


def _specificity(candidates: _Candidates, target: float) -> int | None:
    """Return the lowest threshold whose bound on specificity reaches the target."""
    for index in range(candidates.thresholds.size):
        count = int(candidates.spared[index])
        if clopper_pearson_lower(count, candidates.negatives, CONFIDENCE) >= target:
            return index
    return None


def _youden(candidates: _Candidates) -> int:
    index = candidates.found / candidates.positives + candidates.spared / candidates.negatives - 1
    # of equal ones the lowest threshold: it misses fewer of the diseased
    return int(np.argmax(np.round(index, 12)))


def _candidates(truth: NDArray[np.int64], values: NDArray[np.float64]) -> _Candidates:
    distinct, place = np.unique(values, return_inverse=True)
    of_positives = np.bincount(place, weights=truth, minlength=distinct.size).astype(np.int64)
    of_negatives = np.bincount(place, weights=1 - truth, minlength=distinct.size).astype(np.int64)
    below = np.concatenate(([0.0], distinct[:-1]))
    midway = below + (distinct - below) / 2
    return _Candidates(
        # between two neighbouring floats there is no middle: the upper one is the threshold
        thresholds=np.where(midway > below, midway, distinct),
        found=np.cumsum(of_positives[::-1])[::-1],
        spared=np.cumsum(of_negatives) - of_negatives,
        positives=int(of_positives.sum()),
        negatives=int(of_negatives.sum()),
    )


def _described(
    candidates: _Candidates, lower: int, upper: int, rule: str, note: str, label: str
) -> OperatingPoint:
    high, sensitivity, specificity = candidates.point(upper)
    return OperatingPoint(
        label=label,
        rule=rule,
        low=candidates.point(lower)[0],
        high=high,
        images=candidates.positives + candidates.negatives,
        positives=candidates.positives,
        sensitivity=sensitivity,
        specificity=specificity,
        note=note,
    )


def _undefined(images: int, positives: int, label: str) -> OperatingPoint:
    missing = "positive" if positives == 0 else "negative"
    return OperatingPoint(
        label=label,
        rule="none",
        low=FALLBACK_THRESHOLD,
        high=FALLBACK_THRESHOLD,
        images=images,
        positives=positives,
        sensitivity=0.0,
        specificity=0.0,
        note=f"the calibration split has no {missing} image: {FALLBACK_THRESHOLD} stands unproven, "
        "sensitivity and specificity are undefined and written as 0",
    )


def _named(rule: str, target: float) -> str:
    return f"{rule} >= {target:g} (one-sided 95 % Clopper-Pearson bound)"


def _unsupported(rule: str, target: float, total: int) -> str:
    what = "positive" if rule == "sensitivity" else "negative"
    needed = math.ceil(math.log(1 - CONFIDENCE) / math.log(target))
    return (
        f"{rule} >= {target:g} can't be shown on this split ({total} {what} images, {needed} needed "
        "even if all are right): Youden's index instead, optimistic"
        if total < needed
        else f"no threshold shows {rule} >= {target:g} on this split: Youden's index instead, optimistic"
    )


def _degenerate(index: int) -> str:
    return "every calibration image is positive at this threshold" if index == 0 else ""


def _checked(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    truth = np.asarray(labels, dtype=np.int64)
    values = np.asarray(probabilities, dtype=np.float64)
    if truth.shape != values.shape or truth.ndim != 1:
        raise UsageError(
            f"labels {truth.shape} and probabilities {values.shape} must be flat, equal"
        )
    if not np.isin(truth, (0, 1)).all():
        raise UsageError("labels must be 0 or 1")
    if not ((values >= 0) & (values <= 1)).all():
        raise UsageError("probabilities must lie between 0 and 1")
    return truth, values
