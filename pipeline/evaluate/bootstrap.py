"""Intervals by resampling patients: two eyes of one person are not two observations.

Scores are sorted once; a replicate is one ``bincount`` of the drawn patients and one cumulative
sum of integer weights, so that ties are exact and 2,000 replicates of a test split take a moment.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from data_schemas.card import Interval
from data_schemas.errors import UsageError
from pipeline.evaluate.statistics import AucInterval, Floats, Integers, auc, known

REPLICATES = 2000


class _Kernel:
    """Weighted AUC of one column of scores; exact with ties."""

    def __init__(self, labels: Integers, scores: Floats) -> None:
        order = np.argsort(scores, kind="stable")
        ordered = np.asarray(scores)[order]
        truth = np.asarray(labels)[order] == 1
        self._positives = order[truth]
        self._negatives = order[~truth]
        below = np.searchsorted(ordered[~truth], ordered[truth], side="left")
        self._below = below
        self._up_to = np.searchsorted(ordered[~truth], ordered[truth], side="right")

    def auc(self, weights: NDArray[np.int64]) -> float:
        """Return AUC when image i stands ``weights[i]`` times; ``nan`` if a class has none."""
        beaten = np.concatenate(([0], np.cumsum(weights[self._negatives])))
        own = weights[self._positives]
        pairs = int(own.sum()) * int(beaten[-1])
        if pairs == 0:
            return math.nan
        # a positive beats the negatives below it and half of those at its own score
        return int(own @ (beaten[self._below] + beaten[self._up_to])) / (2 * pairs)


def patient_bootstrap(
    labels: Integers,
    scores: Floats,
    patients: NDArray[np.str_],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> AucInterval:
    """Return (macro) AUC with a percentile interval from resampled patients.

    Patients are drawn with replacement within strata of their highest label, so that a rare class
    isn't lost from most replicates.

    Parameters
    ----------
    labels
        0 or 1 when ``scores`` is [N]; classes 0..K-1 when it is [N, K] (mean one-vs-rest AUC).
    scores
        [N] or [N, K].
    patients
        Pseudonym of each image's patient, [N].
    replicates, seed
        How many draws, and where they start.
    """
    truth, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if not len(truth) == len(values) == len(patients):
        raise UsageError("labels, scores and patients must have one entry per image")
    columns = (
        [(truth, values)]
        if values.ndim == 1
        else [((truth == k).astype(np.int64), values[:, k]) for k in range(values.shape[1])]
    )
    method = f"patient bootstrap, {replicates} draws, seed {seed}"
    point = float(np.mean([auc(own, column) for own, column in columns]))
    if math.isnan(point):
        return AucInterval(point, point, point, point, method, "undefined: a class is missing")
    kernels = [_Kernel(own, column) for own, column in columns]
    strata = highest_labels(truth, patients)
    draws = patient_draws(patients, replicates=replicates, seed=seed, strata=strata)
    areas = np.array([np.mean([kernel.auc(own) for kernel in kernels]) for own in draws])
    return _percentiles(point, areas, method)


def patient_draws(
    patients: NDArray[np.str_],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    strata: Integers | None = None,
) -> Iterator[NDArray[np.int64]]:
    """Yield ``replicates`` times how often each image stands in a draw of patients, [N].

    Patients are drawn with replacement: all together, or within ``strata``, which has one number for
    each distinct patient in sorted order (:func:`highest_labels`).
    """
    names, patient_of_image = np.unique(patients, return_inverse=True)
    kinds = np.zeros(names.size, np.int64) if strata is None else np.asarray(strata)
    groups = [np.flatnonzero(kinds == value) for value in np.unique(kinds)]
    generator = np.random.default_rng(seed)
    for _ in range(replicates):
        drawn = np.concatenate([generator.choice(group, group.size) for group in groups])
        yield np.bincount(drawn, minlength=names.size)[patient_of_image]


def highest_labels(labels: Integers, patients: NDArray[np.str_]) -> NDArray[np.int64]:
    """Return the highest label of each distinct patient, in sorted order."""
    names, patient_of_image = np.unique(patients, return_inverse=True)
    highest = np.zeros(names.size, dtype=np.int64)
    np.maximum.at(highest, patient_of_image, labels)
    return highest


def plain_interval(
    value: float, statistic: Callable[[NDArray[np.int64]], float], patients: NDArray[np.str_]
) -> Interval:
    """Return a statistic with the 2.5th and 97.5th percentile of its values in draws of patients.

    ``statistic`` gets how often each image stands in a draw, [N].
    """
    found = np.array([statistic(weights) for weights in patient_draws(patients)])
    return percentiles(value, found, f"patient bootstrap, {REPLICATES} draws")


def percentiles(value: float, found: Floats, method: str) -> Interval:
    """Return a value with the 2.5th and 97.5th percentile of ``found``; ``nan`` there is left out.

    Where every draw gave the same there are no limits: draws of one patient, or of nothing but hits,
    say nothing about others.
    """
    usable = found[np.isfinite(found)]
    if not math.isfinite(value) or usable.size < found.size / 2:
        return Interval(value=known(value), method=f"{method}: no interval")
    low, high = np.quantile(usable, (0.025, 0.975))
    if low == high and value != 0:  # a difference of nought is one in every draw, and sure
        return Interval(value=value, method=f"{method}: no interval, every draw gave the same")
    return Interval(value=value, low=float(low), high=float(high), method=method)


def _percentiles(point: float, areas: Floats, method: str) -> AucInterval:
    usable = areas[np.isfinite(areas)]
    lost = areas.size - usable.size
    if usable.size < areas.size / 2:
        note = f"no interval: {lost} of {areas.size} draws lacked a class"
        return AucInterval(point, math.nan, math.nan, math.nan, method, note)
    low, high = np.quantile(usable, (0.025, 0.975))
    error = float(np.std(usable, ddof=1))
    notes = [f"{lost} draws lacked a class"] if lost else []
    if error == 0:
        low = high = math.nan
        notes.append("no interval: every draw gave the same area")
    return AucInterval(point, float(low), float(high), error, method, "; ".join(notes))
