"""Figures of merit and their intervals: proportions, ROC areas, calibration. Pure numpy and scipy.

A statistic that the data don't define (a class is missing, nothing was counted) is ``nan``; callers
turn it into ``None`` with a note. Golden values stand in ``tests/evaluate/test_statistics.py``.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import beta, norm, rankdata

from data_schemas.card import Interval
from data_schemas.errors import UsageError

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

BINS = 15
"""Bins of the headline calibration error."""

BinKind = Literal["mass", "width"]

TINIEST = 1e-6
"""How near a probability may come to 0 or 1 where its logarithm is taken."""

OFFICIAL_THRESHOLD = 0.5
"""MedMNIST counts a binary answer as positive above this score (medmnist 3.0.2, evaluator.py)."""


@dataclass(frozen=True, slots=True)
class AucInterval:
    """An area under the ROC curve with its interval.

    ``note`` is empty when the interval is an ordinary one; it says why where it is not.
    """

    value: float
    low: float
    high: float
    standard_error: float
    method: str
    note: str = ""

    def known(self) -> Interval:
        """Return value and limits as a card holds them: what the data don't define is ``None``."""
        return Interval(
            value=known(self.value), low=known(self.low), high=known(self.high), method=self.method
        )


def clopper_pearson(successes: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval of a proportion (Clopper & Pearson 1934).

    Returns ``(nan, nan)`` for no trials. Counts that were divided by a design effect need not be
    whole (Korn & Graubard 1998).
    """
    _check_counts(successes, trials)
    if trials == 0:
        return math.nan, math.nan
    tail = (1 - level) / 2
    low = beta.ppf(tail, successes, trials - successes + 1) if successes else 0.0
    high = beta.ppf(1 - tail, successes + 1, trials - successes) if successes < trials else 1.0
    return float(low), float(high)


def clopper_pearson_lower(successes: float, trials: float, level: float = 0.95) -> float:
    """Return the exact one-sided lower bound of a proportion; ``nan`` for no trials."""
    return clopper_pearson(successes, trials, 2 * level - 1)[0]


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a proportion (Wilson 1927); ``(nan, nan)`` for no trials."""
    _check_counts(successes, trials)
    if trials == 0:
        return math.nan, math.nan
    z = float(norm.ppf((1 + level) / 2))
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # at the ends the formula is exactly 0 or 1; rounding must not put it outside
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == trials else (centre + spread) / scale
    return low, high


def design_effect(scores: NDArray[np.floating[Any]], patients: NDArray[np.str_]) -> float:
    """Return by how much images of the same patients count less than independent ones, >= 1.

    1 + (m - 1) r (Kish 1965): r is the correlation of scores within patients, by analysis of
    variance, at least 0; m is the mean over images of how many images their patient has. Scores
    are ranked first: only their order decides what lies above a threshold.

    Parameters
    ----------
    scores, patients
        Of the images of one class, [N].
    """
    _, place, sizes = np.unique(np.asarray(patients), return_inverse=True, return_counts=True)
    images, groups = place.size, sizes.size
    if groups == images:
        return 1.0
    if groups == 1:  # how alike one patient's images are nobody can tell: they count as one
        return float(images)
    ranks = rankdata(np.asarray(scores, dtype=np.float64))
    means = np.bincount(place, weights=ranks) / sizes
    within = float(np.sum((ranks - means[place]) ** 2)) / (images - groups)
    between = float(np.sum(sizes * (means - ranks.mean()) ** 2)) / (groups - 1)
    usual = (images - float(np.sum(sizes**2)) / images) / (groups - 1)
    spread = between + (usual - 1) * within
    alike = max((between - within) / spread, 0.0) if spread > 0 else 0.0
    return 1.0 + (float(np.sum(sizes**2)) / images - 1.0) * min(alike, 1.0)


def proportion(count: int, total: int, effect: float = 1.0) -> Interval:
    """Return a proportion with its exact interval and its counts; ``None`` of nothing.

    ``effect`` is by how much the images count less than independent ones (:func:`design_effect`):
    the interval is that of counts divided by it (Korn & Graubard 1998).
    """
    low, high = clopper_pearson(count / effect, total / effect)
    clustered = f", {total} images count as {total / effect:.1f}: several are of one patient"
    return Interval(
        value=count / total if total else None,
        low=known(low),
        high=known(high),
        method="Clopper-Pearson" + (clustered if effect > 1 else ""),
        numerator=count,
        denominator=total,
    )


def share(hits: NDArray[np.bool_], scores: Floats, patients: NDArray[np.str_]) -> Interval:
    """Return the share of hits with an interval that takes the images of one patient together.

    Where all or none are hits nothing tells how alike a patient's images are: patients are the trials.

    Parameters
    ----------
    hits
        [N].
    scores
        What the hits follow from, [N]: it tells how alike a patient's images are
        (:func:`design_effect`).
    patients
        Whose images these are, [N].
    """
    count, trials = int(hits.sum()), np.unique(patients).size
    alike = trials > 0 and count in (0, hits.size)
    effect = hits.size / trials if alike else design_effect(scores, patients)
    return proportion(count, hits.size, effect)


def known(value: float) -> float | None:
    """Return ``None`` for what the data don't define."""
    return value if math.isfinite(value) else None


def auc(labels: Integers, scores: Floats) -> float:
    """Return the area under the ROC curve; a tie between classes counts one half.

    Parameters
    ----------
    labels
        0 or 1, [N].
    scores
        Larger means more likely 1, [N].

    Returns
    -------
    float
        ``nan`` if a class is missing.
    """
    truth, values = _two_classes(labels, scores)
    positives = int(truth.sum())
    negatives = truth.size - positives
    if positives == 0 or negatives == 0:
        return math.nan
    ranks = float(rankdata(values)[truth].sum())
    return (ranks - positives * (positives + 1) / 2) / (positives * negatives)


def delong(
    labels: Integers,
    scores: Floats,
    level: float = 0.95,
    patients: NDArray[np.str_] | None = None,
) -> AucInterval:
    """Return AUC with DeLong's variance by midranks (Sun & Xu 2014) and a logit-scale interval.

    Where patients have several images, the variance is that of clustered data (Obuchowski 1997): two
    eyes of one person are not two observations.

    With AUC 1 the variance is 0 and says nothing: the lower limit is then
    ``((1 - level) / 2) ** (1 / min(m, n))``, the smallest AUC-like proportion that the scarcer
    class can't exclude, and ``note`` says so (AUC 0 is its mirror image).

    Parameters
    ----------
    labels, scores
        As :func:`auc` takes them.
    level
        Of the interval.
    patients
        Whose images these are, [N]; ``None``: each of another patient.
    """
    names = np.arange(len(labels)) if patients is None else np.asarray(patients)
    whose = np.unique(names, return_inverse=True)[1]
    clustered = whose.size > 0 and int(whose.max()) + 1 < whose.size
    method = "DeLong by patient, logit" if clustered else "DeLong, logit"
    truth, values = _two_classes(labels, scores)
    area = auc(labels, scores)
    if math.isnan(area):
        return AucInterval(area, area, area, area, method, "undefined: a class is missing")
    fewest = min(np.unique(whose[own]).size for own in (truth, ~truth))
    error = math.sqrt(_delong_variance(truth, values, whose)) if fewest > 1 else math.nan
    limit = ((1 - level) / 2) ** (1 / fewest)
    if area == 1.0:
        note = "the classes are fully separated: the lower limit is that of an exact proportion"
        return AucInterval(area, limit, 1.0, 0.0, "separated", note)
    if area == 0.0:
        note = "the classes are fully separated, in the wrong order"
        return AucInterval(area, 0.0, 1 - limit, 0.0, "separated", note)
    if not error > 0:
        note = "no interval: " + ("a class has one patient" if fewest == 1 else "the variance is 0")
        return AucInterval(area, math.nan, math.nan, error, method, note)
    centre = math.log(area / (1 - area))
    reach = float(norm.ppf((1 + level) / 2)) * error / (area * (1 - area))
    return AucInterval(
        area, float(expit(centre - reach)), float(expit(centre + reach)), error, method
    )


def one_vs_rest_auc(labels: Integers, scores: Floats) -> Floats:
    """Return each class's AUC against the rest; ``labels`` in 0..K-1 [N], ``scores`` [N, K]."""
    classes = np.asarray(scores).shape[1]
    return np.array([auc((labels == k).astype(np.int64), scores[:, k]) for k in range(classes)])


def macro_auc(labels: Integers, scores: Floats) -> float:
    """Return the unweighted mean of :func:`one_vs_rest_auc`; ``nan`` if a class is missing."""
    return float(np.mean(one_vs_rest_auc(labels, scores)))


def official_auc(labels: Integers, scores: Floats) -> float:
    """Return AUC as MedMNIST scores it (medmnist 3.0.2, evaluator.py).

    Parameters
    ----------
    labels
        Classes [N], or several binary labels [N, L].
    scores
        [N, K] columns of classes (K = 2 is binary: the last column counts), [N] or [N, 1] of a
        binary label, or [N, L] of several.
    """
    truth, columns = np.asarray(labels), np.asarray(scores)
    if truth.ndim == 2 and truth.shape[1] > 1:
        return float(np.mean([auc(truth[:, k], columns[:, k]) for k in range(truth.shape[1])]))
    truth = truth.reshape(len(truth))
    if columns.ndim == 1 or columns.shape[1] <= 2:
        return auc(truth, columns.reshape(len(truth), -1)[:, -1])
    return macro_auc(truth, columns)


def official_right(labels: Integers, scores: Floats) -> NDArray[np.bool_]:
    """Return which answers MedMNIST counts as right: score > 0.5 (strictly) for binary, argmax for classes.

    The shape is that of ``labels``: [N], or [N, K] of several binary labels.
    """
    truth, columns = np.asarray(labels), np.asarray(scores)
    if truth.ndim == 2 and truth.shape[1] > 1:
        return np.asarray((columns > OFFICIAL_THRESHOLD) == (truth == 1))
    truth = truth.reshape(len(truth))
    if columns.ndim == 1 or columns.shape[1] <= 2:
        last = columns.reshape(len(truth), -1)[:, -1]
        return np.asarray((last > OFFICIAL_THRESHOLD).astype(np.int64) == truth)
    return np.asarray(np.argmax(columns, axis=1) == truth)


def official_accuracy(labels: Integers, scores: Floats) -> float:
    """Return ACC as MedMNIST scores it: the share of :func:`official_right`; ``nan`` of none."""
    return float(np.mean(official_right(labels, scores))) if len(labels) else math.nan


def confusion(labels: Integers, answers: Integers, classes: int) -> NDArray[np.int64]:
    """Return counts [classes, classes]: rows are the truth, columns the answer."""
    cells = np.asarray(labels, dtype=np.int64) * classes + np.asarray(answers, dtype=np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def brier(labels: Integers, probabilities: Floats) -> float:
    """Return the mean squared difference of probability and outcome (Brier 1950).

    ``probabilities`` [N] of a binary label, or [N, K]: then the sum over classes is averaged.
    """
    truth, values = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if truth.size == 0:
        return math.nan
    if values.ndim == 1:
        return float(np.mean((values - truth) ** 2))
    wanted = np.eye(values.shape[1])[truth]
    return float(np.mean(np.sum((values - wanted) ** 2, axis=1)))


class Bins:
    """Images in bins of their probability: grouped once, counted under any weights.

    Parameters
    ----------
    labels, probabilities
        0 or 1, and the probability of 1, [N].
    bins, kind
        ``mass``: bins of as many images each, as near as ties allow (equal probabilities share a
        bin, by the middle of their ranks, so that the order of images doesn't matter). ``width``:
        bins of equal width, closed below and open above; the last one holds 1.
    """

    def __init__(
        self, labels: Integers, probabilities: Floats, bins: int = BINS, kind: BinKind = "mass"
    ) -> None:
        truth = np.asarray(labels, dtype=np.float64)
        self._values, self._place = np.unique(
            np.asarray(probabilities, dtype=np.float64), return_inverse=True
        )
        self._bins, self._truth = bins, truth
        self._fixed: NDArray[np.intp] | None = None
        if kind == "width":
            # compare with the edges themselves: floor(p * bins) puts 0.29 * 100 into bin 28
            edges = np.linspace(0.0, 1.0, bins + 1)
            self._fixed = np.searchsorted(edges, self._values, side="right") - 1

    def count(
        self, weights: NDArray[np.int64] | None = None, labels: Integers | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return per bin the sum of probabilities, of outcomes and of images.

        ``weights`` [N] says how often each image stands there, ``labels`` [N] takes the place of
        the first ones.
        """
        truth = self._truth if labels is None else np.asarray(labels, dtype=np.float64)
        size = self._values.size
        images = np.bincount(self._place, weights=weights, minlength=size).astype(np.float64)
        own = truth if weights is None else truth * weights
        outcomes = np.bincount(self._place, weights=own, minlength=size)
        index = self._fixed
        if index is None:
            ends = np.cumsum(images)
            middle = (ends - images / 2) * self._bins / max(ends[-1], 1.0) if size else ends
            index = middle.astype(np.intp)
        index = np.clip(index, 0, self._bins - 1)

        def per_bin(values: NDArray[Any]) -> NDArray[np.float64]:
            return np.bincount(index, weights=values, minlength=self._bins).astype(np.float64)

        return per_bin(images * self._values), per_bin(outcomes), per_bin(images)

    def error(
        self, weights: NDArray[np.int64] | None = None, labels: Integers | None = None
    ) -> float:
        """Return the counted mean of |probability - observed share|; ``nan`` for no images."""
        expected, observed, images = self.count(weights, labels)
        total = float(images.sum())
        return float(np.abs(expected - observed).sum()) / total if total else math.nan


def calibration_bins(
    labels: Integers, probabilities: Floats, bins: int = BINS, kind: BinKind = "mass"
) -> tuple[Floats, Floats, Integers]:
    """Return per bin of :class:`Bins` the mean probability, the observed share and the count.

    Mean and share of an empty bin are ``nan``.
    """
    expected, observed, images = Bins(labels, probabilities, bins, kind).count()
    with np.errstate(invalid="ignore"):
        return expected / images, observed / images, images.astype(np.int64)


def expected_calibration_error(
    labels: Integers, probabilities: Floats, bins: int = BINS, kind: BinKind = "mass"
) -> float:
    """Return ECE (Naeini et al. 2015): the counted mean of |probability - observed share| over bins.

    The headline has 15 bins of equal mass; see :class:`Bins` for the other kind.
    """
    return Bins(labels, probabilities, bins, kind).error()


def log_loss(labels: Integers, probabilities: Floats) -> float:
    """Return the mean negative log-likelihood of binary outcomes; probabilities are kept off 0 and 1.

    ``nan`` for no images.
    """
    truth = np.asarray(labels) == 1
    if not truth.size:
        return math.nan
    values = np.clip(np.asarray(probabilities, dtype=np.float64), TINIEST, 1 - TINIEST)
    return float(-np.mean(np.log(np.where(truth, values, 1 - values))))


def quadratic_kappa(table: NDArray[np.integer[Any]]) -> float:
    """Return Cohen's kappa with quadratic weights (Cohen 1968) of a confusion matrix [K, K].

    ``nan`` if there is nothing to disagree on: no images, or one class on both sides.
    """
    counts = np.asarray(table, dtype=np.float64)
    total = counts.sum()
    steps = np.arange(counts.shape[0])
    weights = (steps[:, None] - steps[None, :]) ** 2
    chance = np.outer(counts.sum(axis=1), counts.sum(axis=0))
    expected = float((weights * chance).sum())
    return 1 - float((weights * counts).sum()) * float(total) / expected if expected else math.nan


def roc_curve(labels: Integers, scores: Floats) -> tuple[Floats, Floats]:
    """Return false- and true-positive rates at every distinct score, from (0, 0) to (1, 1)."""
    truth, values = _two_classes(labels, scores)
    order = np.argsort(-values, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(values[order])), values.size - 1)
    hits = np.cumsum(truth[order])[last_of_tie]
    alarms = np.cumsum(~truth[order])[last_of_tie]
    with np.errstate(invalid="ignore"):
        return np.append(0.0, alarms / alarms[-1]), np.append(0.0, hits / hits[-1])


def _delong_variance(truth: NDArray[np.bool_], values: Floats, whose: NDArray[np.intp]) -> float:
    positives, negatives = values[truth], values[~truth]
    together = rankdata(values)
    # structural components: each case's share of the other class that it beats
    of_positives = (together[truth] - rankdata(positives)) / negatives.size
    of_negatives = 1 - (together[~truth] - rankdata(negatives)) / positives.size
    # one sum for each patient of what each of his images is off the mean: of one image each, these are
    # the components themselves, and no patient is in both classes
    count = int(whose.max()) + 1
    area = float(of_positives.mean())
    sums = [
        np.bincount(whose[own], weights=parts - area, minlength=count) / parts.size
        for own, parts in ((truth, of_positives), (~truth, of_negatives))
    ]
    ill, sound = (np.unique(whose[own]).size for own in (truth, ~truth))
    variance = float(sums[0] @ sums[0]) * ill / (ill - 1)
    variance += float(sums[1] @ sums[1]) * sound / (sound - 1)
    both = 2 * float(sums[0] @ sums[1])
    return max(0.0, variance + (both * count / (count - 1) if both else 0.0))


def _two_classes(labels: Integers, scores: Floats) -> tuple[NDArray[np.bool_], Floats]:
    truth, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if truth.shape != values.shape or truth.ndim != 1:
        raise UsageError(f"labels {truth.shape} and scores {values.shape} must be equal and flat")
    if not np.isin(truth, (0, 1)).all():
        raise UsageError(f"labels must be 0 or 1, found {np.unique(truth)[:5].tolist()}")
    if not np.isfinite(values).all():
        raise UsageError("scores must be finite")
    return truth == 1, values


def _check_counts(successes: float, trials: float) -> None:
    if not 0 <= successes <= trials:
        raise UsageError(f"{successes} of {trials} is not a proportion")
