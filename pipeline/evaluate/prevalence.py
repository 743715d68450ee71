"""Prior correction: what another prevalence than the calibration split's does, and what mends it.

A calibrated probability holds where the disease is as frequent as in the images it was calibrated
on. If only the frequency changes, and not how the diseased and the healthy look, its odds must be
multiplied by the ratio of the prior odds. The new prevalence is stated by someone who knows it, or
estimated from the scores alone (Saerens, Latinne & Decaestecker 2002); labels of the split that is
measured are never used for it.
"""

import math

import numpy as np
from numpy.typing import NDArray

from data_schemas.card import OperatingPoint, PrevalenceRow
from data_schemas.errors import UsageError
from pipeline.evaluate import statistics
from pipeline.evaluate.statistics import Floats, Integers, known

ROUNDS = 10_000
CLOSE = 1e-9


def corrected(
    probabilities: Floats, calibrated_at: float, prevalence: float
) -> NDArray[np.float64]:
    """Return probabilities [N] as they are where the disease has another prevalence.

    Raises
    ------
    UsageError
        If a prevalence doesn't lie between 0 and 1.
    """
    for value in (calibrated_at, prevalence):
        if not 0 < value < 1:
            raise UsageError(f"a prevalence lies between 0 and 1, got {value:g}")
    values = np.asarray(probabilities, dtype=np.float64)
    of_positive = values * (prevalence / calibrated_at)
    of_negative = (1 - values) * ((1 - prevalence) / (1 - calibrated_at))
    found: NDArray[np.float64] = of_positive / (of_positive + of_negative)
    return found


def estimated_prevalence(probabilities: Floats, calibrated_at: float) -> float:
    """Return the prevalence of most likelihood, from probabilities calibrated at another one.

    Expectation maximisation of Saerens et al. 2002: correct the probabilities to the present guess;
    their mean is the next. ``nan`` for no images. May come out as 0 or 1.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if not values.size:
        return math.nan
    guess = calibrated_at
    for _ in range(ROUNDS):
        if not CLOSE < guess < 1 - CLOSE:
            break
        better = float(corrected(values, calibrated_at, guess).mean())
        done = abs(better - guess) < CLOSE
        guess = better
        if done:
            break
    return guess


def prevalence_rows(
    labels: Integers, probabilities: Floats, point: OperatingPoint, stated: float | None = None
) -> tuple[PrevalenceRow, ...]:
    """Return what probabilities as calibrated, and corrected ones, make of a split.

    Parameters
    ----------
    labels, probabilities
        0 or 1, and the calibrated probability of 1, [N].
    point
        Its calibration images say which prevalence the probabilities were calibrated at.
    stated
        The prevalence that somebody knows; ``None``: nobody does.
    """
    calibrated_at = point.positives / point.images if point.images else 0.0
    if not 0 < calibrated_at < 1 or not len(labels):
        return ()
    rows = [_row("as calibrated", calibrated_at, labels, probabilities, point)]
    estimate = estimated_prevalence(probabilities, calibrated_at)
    priors = [("estimated", estimate), ("stated", stated)]
    for prior, prevalence in priors:
        if prevalence is not None and CLOSE < prevalence < 1 - CLOSE:
            moved = corrected(probabilities, calibrated_at, prevalence)
            rows.append(_row(prior, prevalence, labels, moved, point))
    return tuple(rows)


def _row(
    prior: str, prevalence: float, labels: Integers, values: Floats, point: OperatingPoint
) -> PrevalenceRow:
    called, diseased = values >= point.high, np.asarray(labels) == 1
    sick, well = int(diseased.sum()), int((~diseased).sum())
    return PrevalenceRow.model_validate(
        {
            "label": point.label,
            "prior": prior,
            "prevalence": prevalence,
            "ece": known(statistics.expected_calibration_error(labels, values)),
            "log_loss": known(statistics.log_loss(labels, values)),
            "sensitivity": int((called & diseased).sum()) / sick if sick else None,
            "specificity": int((~called & ~diseased).sum()) / well if well else None,
            "positive": int(called.sum()),
        }
    )
