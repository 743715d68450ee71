"""Thresholds chosen on the calibration split by a stated rule, then frozen into the card.

An image is positive when its calibrated probability is at or above the threshold. A threshold
stands midway between two neighbouring probabilities of the calibration split, so that rounding in
another runtime doesn't turn an image over. Rules: target with a one-sided 95 % Clopper-Pearson
lower bound, Youden's index, two thresholds; with rule ``cost`` the threshold follows from the costs
alone. A target that the split can't support falls back to Youden's index, and
``OperatingPoint.note`` says so.

Two eyes of one person are not two observations: bounds count as many independent images as the
design effect leaves (:func:`design_effect`).
"""

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.card import UNPROVEN, OperatingPoint
from data_schemas.errors import UsageError
from data_schemas.plan import OperatingRule
from pipeline.evaluate.statistics import clopper_pearson_lower, design_effect

CONFIDENCE = 0.95
FALLBACK_THRESHOLD = 0.5
INSTEAD = ": Youden's index instead, optimistic"


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Every threshold worth looking at, from the lowest to the highest, and what it does."""

    thresholds: NDArray[np.float64]
    found: NDArray[np.int64]  # positives at or above each threshold
    spared: NDArray[np.int64]  # negatives below each threshold
    positives: int
    negatives: int
    effects: tuple[float, float] = (1.0, 1.0)  # design effects of positives and of negatives

    def needed(self, target: float, *, of_positives: bool) -> int:
        """Return how many must be right for the one-sided bound of their share to reach a target.

        One more than there are if all of them don't suffice.
        """
        total, effect = (
            (self.positives, self.effects[0]) if of_positives else (self.negatives, self.effects[1])
        )
        return bisect.bisect_left(
            range(total + 1),
            target,
            key=lambda count: clopper_pearson_lower(count / effect, total / effect, CONFIDENCE),
        )

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
    patients: NDArray[np.str_] | None = None,
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
    patients
        Whose images these are, [N]; ``None``: each of another patient.

    Raises
    ------
    UsageError
        If the arrays don't fit each other, or a probability isn't one.
    """
    truth, values = _checked(labels, probabilities)
    positives = int(truth.sum())
    if positives in (0, truth.size):
        return _undefined(truth.size, positives, label, rule.name)
    effects = (1.0, 1.0)
    if patients is not None:
        of_class = [truth == 1, truth == 0]
        effects = (
            design_effect(values[of_class[0]], patients[of_class[0]]),
            design_effect(values[of_class[1]], patients[of_class[1]]),
        )
    candidates = replace(_candidates(truth, values), effects=effects)
    if rule.rule == "cost":
        found = _by_cost(truth, values, rule)
    elif rule.rule == "two_thresholds":
        found = _two(candidates, rule)
    else:
        index, name, note = _one(candidates, rule)
        found = _described(candidates, index, index, name, note)
    more = {
        "label": label,
        "name": rule.name,
        "effective_positives": positives / effects[0],
        "effective_negatives": (truth.size - positives) / effects[1],
        **_band(truth, values, found),
    }
    return found.model_copy(update=more)


def further(
    labels: NDArray[np.integer[Any]],
    probabilities: NDArray[np.floating[Any]],
    rules: Iterable[OperatingRule],
    *,
    label: str,
    patients: NDArray[np.str_] | None = None,
) -> tuple[tuple[OperatingPoint, ...], tuple[str, ...]]:
    """Choose further, named points; return those that the split shows, and why others are left out.

    A point of such a name as ``rule_out`` is relied upon, so that no other rule may stand in for it.
    """
    found, notes = [], []
    for rule in rules:
        point = choose(labels, probabilities, rule, label=label, patients=patients)
        if _stands(point, rule):
            found.append(point)
        else:
            notes.append(f"no point `{rule.name}`: {point.note.removesuffix(INSTEAD)}")
    return tuple(found), tuple(notes)


def _stands(point: OperatingPoint, rule: OperatingRule) -> bool:
    """Return whether a point follows its rule, and not one that stood in for it."""
    return point.proven and (rule.rule == "youden") == (point.rule == "youden")


def _band(
    truth: NDArray[np.int64], values: NDArray[np.float64], point: OperatingPoint
) -> dict[str, float | int]:
    if point.low == point.high:
        return {}
    called, spared = values >= point.high, values < point.low
    decided = called | spared
    wrong = (called & (truth == 0)) | (spared & (truth == 1))
    count = int(decided.sum())
    risk = {"risk": int(wrong.sum()) / count} if count else {}
    return {"coverage": count / truth.size, "band_positives": int(truth[~decided].sum()), **risk}


def _by_cost(
    truth: NDArray[np.int64], values: NDArray[np.float64], rule: OperatingRule
) -> OperatingPoint:
    """Return the threshold of least expected cost, which follows from calibrated probabilities."""
    threshold = rule.cost_false_alarm / (rule.cost_false_alarm + rule.cost_miss)
    called, positives = values >= threshold, int(truth.sum())
    return OperatingPoint(
        label="",
        rule=f"cost: a miss {rule.cost_miss:g}, a false alarm {rule.cost_false_alarm:g}",
        low=threshold,
        high=threshold,
        images=truth.size,
        positives=positives,
        sensitivity=int((called & (truth == 1)).sum()) / positives,
        specificity=int((~called & (truth == 0)).sum()) / (truth.size - positives),
    )


def _one(candidates: _Candidates, rule: OperatingRule) -> tuple[int, str, str]:
    if rule.rule == "youden":
        return _youden(candidates), "youden", ""
    of_sensitivity = rule.rule == "sensitivity"
    reach = _sensitivity if of_sensitivity else _specificity
    index = reach(candidates, rule.target)
    if index is None:
        note = _unsupported(candidates, rule.rule, rule.target)
        return _youden(candidates), "youden", note
    return index, _named(rule.rule, rule.target), _degenerate(index)


def _two(candidates: _Candidates, rule: OperatingRule) -> OperatingPoint:
    lower = _sensitivity(candidates, rule.target)
    upper = _specificity(candidates, rule.target_specificity)
    if lower is None or upper is None:
        missing = [
            _unsupported(candidates, what, target)
            for index, what, target in (
                (lower, "sensitivity", rule.target),
                (upper, "specificity", rule.target_specificity),
            )
            if index is None
        ]
        index = _youden(candidates)
        return _described(candidates, index, index, "youden", "; ".join(missing))
    name = (
        f"{_named('sensitivity', rule.target)} below, "
        f"{_named('specificity', rule.target_specificity)} above"
    )
    if upper <= lower:
        # the lower threshold already spares enough negatives: nothing is left between the two
        note = "one threshold meets both targets"
        return _described(candidates, lower, lower, name, note)
    return _described(candidates, lower, upper, name, "")


def _sensitivity(candidates: _Candidates, target: float) -> int | None:
    """Return the highest threshold whose bound on sensitivity reaches the target."""
    needed = candidates.needed(target, of_positives=True)
    reaching = np.flatnonzero(candidates.found >= needed)
    return int(reaching[-1]) if reaching.size else None


def _specificity(candidates: _Candidates, target: float) -> int | None:
    """Return the lowest threshold whose bound on specificity reaches the target."""
    needed = candidates.needed(target, of_positives=False)
    reaching = np.flatnonzero(candidates.spared >= needed)
    return int(reaching[0]) if reaching.size else None


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
    candidates: _Candidates, lower: int, upper: int, rule: str, note: str
) -> OperatingPoint:
    high, sensitivity, specificity = candidates.point(upper)
    return OperatingPoint(
        label="",
        rule=rule,
        low=candidates.point(lower)[0],
        high=high,
        images=candidates.positives + candidates.negatives,
        positives=candidates.positives,
        sensitivity=sensitivity,
        specificity=specificity,
        note=note,
    )


def _undefined(images: int, positives: int, label: str, name: str) -> OperatingPoint:
    missing = "positive" if positives == 0 else "negative"
    return OperatingPoint(
        label=label,
        name=name,
        rule=UNPROVEN,
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


def _unsupported(candidates: _Candidates, rule: str, target: float) -> str:
    what, total, effect = (
        ("positive", candidates.positives, candidates.effects[0])
        if rule == "sensitivity"
        else ("negative", candidates.negatives, candidates.effects[1])
    )
    needed = math.ceil(math.log(1 - CONFIDENCE) / math.log(target))
    count = f"{total} {what} images"
    if effect > 1:
        count += f" of several a patient, which count as {total / effect:.1f}"
    return (
        f"{rule} >= {target:g} can't be shown on this split ({count}, {needed} needed "
        f"even if all are right){INSTEAD}"
        if total / effect < needed
        else f"no threshold shows {rule} >= {target:g} on this split{INSTEAD}"
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
