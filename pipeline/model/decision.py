"""From logits to an answer: probabilities, finding states, verdict. One place for every door; numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.card import Card, OperatingPoint, Output
from data_schemas.errors import UsageError
from data_schemas.score import FindingScore, PointState, Score
from data_schemas.terms import FindingState, Laterality, Verdict

Logits = NDArray[np.floating[Any]]

DEFAULT = "default"
"""Name of the operating point that gives the verdict."""


NOT_ASSESSABLE: tuple[Verdict, ...] = ("insufficient_quality", "out_of_scope")
"""Verdicts on an image about which the model says nothing."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer about one image."""

    verdict: Verdict
    point: OperatingPoint  # of the primary label
    probabilities: dict[str, dict[str, float]]  # label -> class -> calibrated probability
    findings: tuple[FindingScore, ...]


def output_of(card: Card, label: str) -> Output:
    """Return the output that answers ``label``.

    Raises
    ------
    UsageError
        If the model doesn't answer it.
    """
    for output in card.outputs:
        if output.label == label:
            return output
    raise UsageError(
        f"this model doesn't answer `{label}`",
        mend=f"its labels: {', '.join(output.label for output in card.outputs)}",
    )


def point_of(card: Card, label: str, name: str = DEFAULT) -> OperatingPoint | None:
    """Return the operating point of ``label`` by name, or ``None`` if none was frozen for it."""
    return next((point for point in points_of(card, label) if point.name == name), None)


def points_of(card: Card, label: str) -> tuple[OperatingPoint, ...]:
    """Return every operating point of ``label``."""
    return tuple(point for point in card.operating_points if point.label == label)


def probabilities(card: Card, logits: Logits) -> dict[str, NDArray[np.float64]]:
    """Return label -> calibrated probabilities [N, classes]; the columns of a binary label are (1-p, p).

    ``logits`` is [N, K]. See :func:`calibrated`.
    """
    values = np.asarray(logits, dtype=np.float64)
    return {output.label: calibrated(output, values) for output in card.outputs}


def positive_probability(card: Card, label: str, logits: Logits) -> NDArray[np.float64]:
    """Return the calibrated probability [N] that ``label`` is one of its positive classes."""
    return of_positive(output_of(card, label), logits)


def of_positive(output: Output, logits: Logits) -> NDArray[np.float64]:
    """Return the calibrated probability [N] of an output's positive classes."""
    return _of_positive(output, calibrated(output, np.asarray(logits, dtype=np.float64)))


def _of_positive(output: Output, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    # a sum of softmax terms may exceed 1 by a rounding error
    total: NDArray[np.float64] = shares[:, list(output.positive_classes)].sum(axis=1)
    return np.minimum(total, 1.0)


def state(point: OperatingPoint, probability: float) -> FindingState:
    """Return ``present`` at or above ``high``, ``absent`` below ``low``, else ``uncertain``."""
    if probability >= point.high:
        return "present"
    return "absent" if probability < point.low else "uncertain"


def verdicts(card: Card, logits: Logits) -> list[Verdict]:
    """Return the verdict on each of N images, by the primary label's operating point."""
    point = _primary_point(card)
    values = positive_probability(card, card.primary, logits)
    return [_VERDICTS[state(point, float(value))] for value in values]


def decide(card: Card, logits: Logits) -> Decision:
    """Return the whole answer about one image from its logits [K].

    A label without an operating point gets its probabilities but no finding state
    (``not_assessed``): nobody said where it turns positive.
    """
    shares = probabilities(card, np.asarray(logits)[None])
    named = {
        output.label: dict(zip(output.classes, map(float, shares[output.label][0]), strict=True))
        for output in card.outputs
    }
    positive = {
        output.label: float(_of_positive(output, shares[output.label])[0])
        for output in card.outputs
    }
    findings = tuple(_finding(card, label, value) for label, value in positive.items())
    point = _primary_point(card)
    verdict = _VERDICTS[state(point, positive[card.primary])]
    return Decision(verdict, point, named, findings)


def not_assessed(card: Card, verdict: Verdict = "insufficient_quality") -> Decision:
    """Return the answer about an image that the network didn't see: no probability, no finding."""
    findings = tuple(_finding(card, output.label, None) for output in card.outputs)
    return Decision(verdict, _primary_point(card), {}, findings)


def out_of_scope(decision: Decision) -> Decision:
    """Return the answer about an image that the model wasn't made for.

    What the network said stays to be seen, but nothing is concluded from it.
    """
    findings = tuple(
        finding.model_copy(update={"state": "not_assessed"}) for finding in decision.findings
    )
    return replace(decision, verdict="out_of_scope", findings=findings)


@dataclass(frozen=True, slots=True)
class Side:
    """The answer about one side of a patient."""

    laterality: Laterality
    images: tuple[int, ...]  # which of the patient's
    verdict: Verdict
    findings: tuple[FindingScore, ...]


@dataclass(frozen=True, slots=True)
class PatientDecision:
    """The answer about a patient."""

    verdict: Verdict
    findings: tuple[FindingScore, ...]
    sides: tuple[Side, ...]


def decide_patient(card: Card, scores: Sequence[tuple[Laterality, Score]]) -> PatientDecision:
    """Return the answer about one patient from the scores of all images, each with its side.

    A side's probability is the highest (or, if the card's ``aggregate`` says so, the mean) of its
    images that could be judged: of two views of one eye, one good one is enough. The patient's is
    the highest of the sides': a disease of one eye is the patient's. Images of an unknown side may
    show either one, so each counts as a side of its own there. A patient is negative only if every
    side could be judged; states follow from the thresholds for single images, so with more images
    sensitivity rises and specificity falls.
    """
    order: tuple[Laterality, ...] = ("R", "L", "B", "U")
    sides = []
    for laterality in order:
        places = tuple(i for i, (side, _) in enumerate(scores) if side == laterality)
        if places:
            found = [_judged(card, scores[i][1]) for i in places]
            combined = _over_sides(card, found) if laterality == "U" else _of_side(card, found)
            sides.append(Side(laterality, places, *combined))
    verdict, findings = _over_sides(card, [(side.verdict, side.findings) for side in sides])
    return PatientDecision(verdict, findings, tuple(sides))


_Judged = tuple[Verdict, tuple[FindingScore, ...]]


def _judged(card: Card, score: Score) -> _Judged:
    # what an image out of scope happens to score says nothing about the patient
    silent = score.verdict in NOT_ASSESSABLE
    return score.verdict, not_assessed(card).findings if silent else score.findings


def _of_side(card: Card, images: Sequence[_Judged]) -> _Judged:
    judged = [findings for verdict, findings in images if verdict not in NOT_ASSESSABLE]
    if not judged:
        return _over_sides(card, images)
    merge = max if card.aggregate == "highest" else _mean
    findings = tuple(
        _finding(
            card, one[0].name, merge([f.probability for f in one if f.probability is not None])
        )
        for one in zip(*judged, strict=True)
    )
    return _verdict_of(card, findings), findings


def _over_sides(card: Card, sides: Sequence[_Judged]) -> _Judged:
    missing = [verdict for verdict, _ in sides if verdict in NOT_ASSESSABLE]
    findings = []
    for one in zip(*(findings for _, findings in sides), strict=True):
        known = [finding.probability for finding in one if finding.probability is not None]
        found = _finding(card, one[0].name, max(known, default=None))
        if missing and found.state == "absent":
            # nobody may read "absent" while a side was not seen
            found = found.model_copy(update={"state": "not_assessed"})
        findings.append(found)
    verdict = _verdict_of(card, findings)
    if missing and verdict != "positive":
        verdict = min(missing, key=NOT_ASSESSABLE.index)
    return verdict, tuple(findings)


def _verdict_of(card: Card, findings: Sequence[FindingScore]) -> Verdict:
    primary = next(finding for finding in findings if finding.name == card.primary)
    if primary.probability is None:
        return "insufficient_quality"
    return _VERDICTS[state(_primary_point(card), primary.probability)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def every_point(card: Card, findings: Sequence[FindingScore]) -> tuple[PointState, ...]:
    """Return the state of every finding at every operating point of the card."""
    known = {finding.name: finding.probability for finding in findings}
    states = []
    for point in card.operating_points:
        probability = known.get(point.label)
        found: FindingState = "not_assessed" if probability is None else state(point, probability)
        states.append(
            PointState(
                label=point.label,
                name=point.name,
                rule=point.rule,
                low=point.low,
                high=point.high,
                state=found,
            )
        )
    return tuple(states)


_VERDICTS: dict[FindingState, Verdict] = {
    "present": "positive",
    "absent": "negative",
    "uncertain": "indeterminate",
}


def _finding(card: Card, label: str, probability: float | None) -> FindingScore:
    point = point_of(card, label)
    return FindingScore(
        name=label,
        probability=probability,
        low=point.low if point else 0.0,
        high=point.high if point else 1.0,
        state="not_assessed" if point is None or probability is None else state(point, probability),
    )


def _primary_point(card: Card) -> OperatingPoint:
    point = point_of(card, card.primary)
    if point is None:
        raise UsageError(f"the primary label `{card.primary}` has no operating point")
    return point


def calibrated(output: Output, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities [N, classes] of one output from all logits [N, K].

    Its logits are divided by its temperature and moved by its shift, then go through a sigmoid
    (one column), a softmax (several), or, for grades, through sigmoids of "this class or a later
    one" (cumulative link, McCullagh 1980).
    """
    scaled = logits[:, list(output.columns)] / output.temperature
    if output.shift:
        scaled = scaled + np.asarray(output.shift)
    if output.link == "cumulative":
        return _from_cumulative(scaled)
    if len(output.columns) == 1:
        # a sigmoid is a softmax over (0, logit)
        scaled = np.concatenate([np.zeros_like(scaled), scaled], axis=1)
    # the largest term becomes exp(0): nothing overflows
    raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return shares


def classes_of(output: Output, logits: Logits) -> NDArray[np.int64]:
    """Return the class [N] that one output answers, from all logits [N, K].

    The likeliest class; of grades learned as such (cumulative link), the expected grade, rounded:
    halves go up. It is the answer that makes squared distances small, and quadratic kappa large.
    """
    shares = calibrated(output, np.asarray(logits, dtype=np.float64))
    if output.link == "cumulative":
        expected = shares @ np.arange(shares.shape[1])
        grades: NDArray[np.int64] = np.floor(expected + 0.5).astype(np.int64)
        return grades
    return np.asarray(np.argmax(shares, axis=1), np.int64)


def _from_cumulative(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    # the columns are learned apart: a later grade can't be likelier than an earlier one reached
    reached = np.minimum.accumulate(np.exp(-np.logaddexp(0.0, -logits)), axis=1)
    ends = np.ones((len(reached), 1)), np.zeros((len(reached), 1))
    return -np.diff(np.concatenate([ends[0], reached, ends[1]], axis=1), axis=1)
