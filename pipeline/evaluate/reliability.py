"""How far probabilities can be believed: calibration error with what chance alone gives, slope, offset.

The calibration error of few images is too large, and that of their resamples larger still: 60 images
of a perfectly calibrated network give 0.13. So it comes with the error that a perfect network gives
on the same probabilities (consistency resampling, Brocker & Smith 2007), and its interval is the
bootstrap's basic one, which takes the resamples' own excess off. Patients are resampled, not images.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm

from data_schemas.card import Interval
from pipeline.evaluate.bootstrap import REPLICATES, patient_draws, percentiles
from pipeline.evaluate.statistics import BINS, TINIEST, Bins, Floats, Integers, known

PERFECT_DRAWS = 1000
STEPS = 50


@dataclass(frozen=True, slots=True)
class Errors:
    """Calibration error of a split, before and after calibration."""

    after: Interval
    before: Interval
    change: Interval  # after - before, of the same draws
    perfect: Interval  # what true probabilities would give

    @property
    def worse(self) -> bool:
        """Return whether calibration made it worse by more than its interval."""
        return self.change.low is not None and self.change.low > 0


def calibration_errors(
    labels: Integers, before: Floats, after: Floats, patients: NDArray[np.str_]
) -> Errors:
    """Return ECE over 15 bins of equal mass of probabilities before and after calibration.

    Parameters
    ----------
    labels
        0 or 1, [N].
    before, after
        Probabilities of 1, [N].
    patients
        Whose images these are, [N].
    """
    if not len(labels):
        nothing = Interval(value=None, method="no images")
        return Errors(nothing, nothing, nothing, nothing)
    bins = [Bins(labels, values) for values in (before, after)]
    found = np.array([own.error() for own in bins])
    draws = np.array([[own.error(weights) for own in bins] for weights in patient_draws(patients)])
    perfect = [perfect_errors(values) for values in (before, after)]
    intervals = [
        _basic(float(found[k]), draws[:, k], float(np.quantile(perfect[k], 0.95))) for k in (0, 1)
    ]
    change = percentiles(
        float(found[1] - found[0]),
        draws[:, 1] - draws[:, 0],
        f"{BINS} bins of equal mass; patient bootstrap, {REPLICATES} draws, paired",
    )
    by_chance = percentiles(
        float(perfect[1].mean()),
        perfect[1],
        f"mean and range of {PERFECT_DRAWS} draws of labels from the probabilities",
    )
    return Errors(intervals[1], intervals[0], change, by_chance)


def calibration_error(
    labels: Integers, probabilities: Floats, patients: NDArray[np.str_]
) -> Interval:
    """Return ECE over 15 bins of equal mass, as :func:`calibration_errors` does."""
    return calibration_errors(labels, probabilities, probabilities, patients).after


def perfect_errors(probabilities: Floats, seed: int = 0) -> Floats:
    """Return the calibration errors of labels drawn from the probabilities themselves."""
    generator = np.random.default_rng(seed)
    values = np.asarray(probabilities, dtype=np.float64)
    bins = Bins(np.zeros(values.size, np.int64), values)
    draws = (generator.random(values.size) < values for _ in range(PERFECT_DRAWS))
    return np.array([bins.error(labels=drawn.astype(np.int64)) for drawn in draws])


def recalibration(
    labels: Integers, probabilities: Floats, patients: NDArray[np.str_] | None = None
) -> tuple[Interval, Interval]:
    """Return the calibration slope and calibration in the large (Cox 1958; Van Calster et al. 2019).

    The slope is that of a logistic regression on the probabilities' log-odds: below 1 they are too
    extreme. In the large is its intercept with the slope held at 1: below 0 they are too high.
    Probabilities are kept 1e-6 off 0 and 1. Wald intervals; with ``patients`` their errors are
    those of clustered observations (Liang & Zeger 1986).
    """
    truth = np.asarray(labels, dtype=np.float64)
    odds = logit(np.clip(np.asarray(probabilities, np.float64), TINIEST, 1 - TINIEST))
    names = np.arange(truth.size).astype(np.str_) if patients is None else patients
    how = "Wald" if patients is None else "Wald, by patient"
    ones = np.ones_like(odds)
    slope = _logistic(np.stack([ones, odds], axis=1), truth, np.zeros_like(odds), names)
    large = _logistic(ones[:, None], truth, odds, names)
    return (
        _wald(slope, 1, f"logistic regression on the log-odds; {how}"),
        _wald(large, 0, f"logistic regression, slope 1; {how}"),
    )


def _basic(value: float, draws: Floats, by_chance: float) -> Interval:
    low, high = np.quantile(draws, (0.025, 0.975))
    # a perfect network's own error lies at the limit 0, which no bootstrap reaches
    lower = 0.0 if value <= by_chance else max(0.0, 2 * value - float(high))
    return Interval(
        value=value,
        low=min(lower, value),
        high=max(2 * value - float(low), value),
        method=f"{BINS} bins of equal mass; patient bootstrap (basic), {REPLICATES} draws",
    )


def _logistic(
    design: Floats, truth: Floats, offset: Floats, patients: NDArray[np.str_]
) -> tuple[Floats, Floats] | None:
    """Return coefficients and their clustered standard errors; ``None`` where there is no maximum."""
    if truth.size == 0 or truth.min() == truth.max():
        return None
    at = np.zeros(design.shape[1])
    for _ in range(STEPS):
        chance = expit(design @ at + offset)
        information = (design * (chance * (1 - chance))[:, None]).T @ design
        if not np.linalg.cond(information) < 1e12:
            return None
        step = np.linalg.solve(information, design.T @ (truth - chance))
        # half-way at most over four units: far off, Newton's step overshoots
        at = at + step * min(1.0, 4.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-10:
            break
    else:
        return None
    inverse = np.linalg.inv(information)
    names, place = np.unique(patients, return_inverse=True)
    if names.size == truth.size:
        return at, np.sqrt(np.diag(inverse))
    scores = np.zeros((names.size, design.shape[1]))
    np.add.at(scores, place, design * (truth - chance)[:, None])
    correction = names.size / (names.size - 1) if names.size > 1 else math.nan
    spread = inverse @ (scores.T @ scores) @ inverse * correction
    return at, np.sqrt(np.diag(spread))


def _wald(found: tuple[Floats, Floats] | None, index: int, method: str) -> Interval:
    if found is None:
        return Interval(value=None, method=f"{method}: no maximum")
    value, error = float(found[0][index]), float(found[1][index])
    reach = float(norm.ppf(0.975)) * error
    if not math.isfinite(reach):
        return Interval(value=known(value), method=f"{method}: no interval")
    return Interval(value=value, low=value - reach, high=value + reach, method=method)
