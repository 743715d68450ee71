"""From logits to an answer: probabilities, finding states, verdict. One place for every door; numpy only."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.card import Card, OperatingPoint, Output
from data_schemas.errors import UsageError
from data_schemas.score import FindingScore
from data_schemas.terms import FindingState, Verdict

Logits = NDArray[np.floating[Any]]

DEFAULT = "default"
"""Name of the operating point that gives the verdict."""


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
    found = calibrated(output, np.asarray(logits, dtype=np.float64))
    # a sum of softmax terms may exceed 1 by a rounding error
    total: NDArray[np.float64] = found[:, list(output.positive_classes)].sum(axis=1)
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
    row = np.asarray(logits)[None]
    named = {
        output.label: {
            name: float(value) for name, value in zip(output.classes, columns[0], strict=True)
        }
        for output, columns in zip(card.outputs, probabilities(card, row).values(), strict=True)
    }
    findings = tuple(
        _finding(card, output.label, float(positive_probability(card, output.label, row)[0]))
        for output in card.outputs
    )
    return Decision(verdicts(card, row)[0], _primary_point(card), named, findings)


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
