"""Temperature: one number that makes probabilities mean what they say, fitted on the calibration split."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from data_schemas.errors import UsageError
from data_schemas.terms import LabelKind

COLDEST, HOTTEST = 0.05, 20.0
"""Range of temperatures looked at; a fit at its end says that the data hold no answer."""


@dataclass(frozen=True, slots=True)
class Temperature:
    """A fitted temperature; ``note`` is empty when the data determined it."""

    value: float
    loss_before: float
    loss_after: float
    note: str = ""


def fit_temperature(
    logits: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], kind: LabelKind
) -> Temperature:
    """Fit the temperature that minimises the negative log-likelihood (Guo et al. 2017).

    Parameters
    ----------
    logits
        [N] or [N, 1] of a binary label (sigmoid), [N, K] of classes (softmax).
    labels
        0/1, or classes 0..K-1, [N].
    kind
        Whether the columns go through a sigmoid or a softmax.

    Returns
    -------
    Temperature
        1 with a note when the split can't say: no images, one class only, or every image already
        on the right side (the likelihood then grows without end as the temperature falls).
    """
    values, truth = _checked(logits, labels, kind)
    if truth.size == 0:
        return Temperature(1.0, math.nan, math.nan, "no images to calibrate on: temperature 1 kept")
    before = _loss(values, truth, 1.0)
    if np.unique(truth).size < 2:
        note = "the calibration split holds one class only: temperature 1 kept"
        return Temperature(1.0, before, before, note)
    # the likelihood has one minimum over the inverse temperature; its logarithm scales evenly
    found = minimize_scalar(
        lambda power: _loss(values, truth, math.exp(power)),
        bounds=(math.log(COLDEST), math.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    fitted = math.exp(float(found.x))
    if fitted < COLDEST * 1.01:
        note = "the logits separate the calibration split fully: temperature 1 kept"
        return Temperature(1.0, before, before, note)
    after = _loss(values, truth, fitted)
    if fitted > HOTTEST / 1.01:
        note = f"the logits say nothing about this label: temperature {fitted:.3g}, the highest allowed"
        return Temperature(fitted, before, after, note)
    return Temperature(fitted, before, after)


def temperature(
    logits: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], kind: LabelKind
) -> float:
    """Return only the number of :func:`fit_temperature`."""
    return fit_temperature(logits, labels, kind).value


def _checked(
    logits: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], kind: LabelKind
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    values = np.asarray(logits, dtype=np.float64)
    truth = np.asarray(labels, dtype=np.int64)
    values = values.reshape(len(truth), -1) if len(truth) else values.reshape(0, 1)
    if not np.isfinite(values).all():
        raise UsageError("logits must be finite to be calibrated")
    if kind == "ordinal":
        if not ((truth >= 0) & (truth <= values.shape[1])).all():
            raise UsageError(f"labels must lie in 0..{values.shape[1]}")
        # each step of the scale is a yes or no of its own
        truth = (truth[:, None] > np.arange(values.shape[1])).astype(np.int64).ravel()
        values, kind = values.reshape(-1, 1), "binary"
    if kind == "binary":
        if len(truth) and values.shape[1] != 1:
            raise UsageError(f"a binary label has one logit an image, got {values.shape[1]}")
        # a sigmoid is a softmax over (0, logit)
        values = np.concatenate([np.zeros_like(values), values], axis=1)
    if len(truth) and not ((truth >= 0) & (truth < values.shape[1])).all():
        raise UsageError(f"labels must lie in 0..{values.shape[1] - 1}")
    return values, truth


def _loss(values: NDArray[np.float64], truth: NDArray[np.int64], heat: float) -> float:
    scaled = values / heat
    own = scaled[np.arange(truth.size), truth]
    return float(np.mean(logsumexp(scaled, axis=1) - own))
