"""Measures whether a fundus photograph can be judged: sharpness, brightness, visible field."""

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Quality
from data_schemas.score import QualityAnswer

SIDE = 320
"""Side of the array on which it is measured, whatever the contract's size, so that limits compare."""
_FINE, _COARSE = 3, 9


def measure(square: NDArray[np.uint8], visible: float) -> dict[str, float]:
    """Measure a region of interest.

    Parameters
    ----------
    square
        uint8 [SIDE, SIDE] or [SIDE, SIDE, 3], the field filling the square.
    visible
        Share of the field's circle that is lit and inside the frame.

    Returns
    -------
    features
        ``sharpness``: contrast between fine and coarser detail (difference of two box means of 3
        and 9 pixels, green channel, standard deviation in percent of the mean brightness);
        ``brightness``: mean of the brightest channel, 0..255; ``field``: ``visible``.
    """
    green = (square if square.ndim == 2 else square[..., 1]).astype(np.float32)
    brightest = (square if square.ndim == 2 else square.max(axis=2)).astype(np.float32)
    seen = _inner_disc(len(square)) & (brightest > 0)
    if not seen.any():
        return {"sharpness": 0.0, "brightness": 0.0, "field": round(visible, 4)}
    detail = _box_mean(green, _FINE) - _box_mean(green, _COARSE)
    sharpness = 100.0 * float(detail[seen].std()) / max(float(green[seen].mean()), 1.0)
    brightness = float(brightest[seen].mean())
    return {
        "sharpness": round(sharpness, 4),
        "brightness": round(brightness, 4),
        "field": round(visible, 4),
    }


def judge(features: dict[str, float], limits: Quality) -> QualityAnswer:
    """Compare features with the contract's limits; every limit that is broken gives a reason."""
    reasons = []
    if features["sharpness"] < limits.min_sharpness:
        reasons.append(f"not sharp: {features['sharpness']:.2f} < {limits.min_sharpness:.2f}")
    if features["brightness"] < limits.min_brightness:
        reasons.append(f"too dark: {features['brightness']:.0f} < {limits.min_brightness:.0f}")
    if features["brightness"] > limits.max_brightness:
        reasons.append(f"too bright: {features['brightness']:.0f} > {limits.max_brightness:.0f}")
    if features["field"] < limits.min_field:
        reasons.append(f"field not visible: {features['field']:.2f} < {limits.min_field:.2f}")
    return QualityAnswer(sufficient=not reasons, reasons=tuple(reasons), features=features)


def _inner_disc(side: int) -> NDArray[np.bool_]:
    # 85 % of the radius: the field's own edge would count as detail
    away = np.arange(side) - (side - 1) / 2
    return away[:, None] ** 2 + away[None, :] ** 2 <= (0.85 * side / 2) ** 2


def _box_mean(values: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    half = width // 2
    for axis in (0, 1):
        edge = [(0, 0), (0, 0)]
        edge[axis] = (half + 1, half)
        sums = np.pad(values.astype(np.float64), edge, mode="edge").cumsum(axis=axis)
        upper = np.take(sums, range(width, sums.shape[axis]), axis=axis)
        lower = np.take(sums, range(sums.shape[axis] - width), axis=axis)
        values = ((upper - lower) / width).astype(np.float32)
    return values
