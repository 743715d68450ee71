"""Measures whether a fundus photograph can be judged: sharpness, brightness, visible field."""

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Quality
from data_schemas.score import QualityAnswer

SIDE = 320
"""Side of the array on which it is measured, whatever the contract's size, so that limits compare."""
_FINE, _COARSE = 3, 5


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
        ``sharpness``: fine detail, as the mean absolute difference of box means of 3 and 5 pixels
        in the green channel, in percent of its mean brightness. The mean, because a standard
        deviation would see little but the optic disc; the 3 pixels, so that noise counts little;
        ``brightness``: mean of the brightest channel, 0..255; ``field``: ``visible``.
    """
    green = (square if square.ndim == 2 else square[..., 1]).astype(np.float32)
    brightest = (square if square.ndim == 2 else square.max(axis=2)).astype(np.float32)
    seen = _inner_disc(len(square)) & (brightest > 0)
    if not seen.any():
        return {"sharpness": 0.0, "brightness": 0.0, "field": round(visible, 4)}
    detail = _box_mean(green, _FINE) - _box_mean(green, _COARSE)
    sharpness = 100.0 * float(np.abs(detail[seen]).mean()) / max(float(green[seen].mean()), 1.0)
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
    # running sums along each axis; float64, because they grow
    half = width // 2
    for _ in range(2):
        padded = np.pad(values, ((half + 1, half), (0, 0)), mode="edge")
        sums = padded.cumsum(axis=0, dtype=np.float64)
        values = ((sums[width:] - sums[:-width]) / width).astype(np.float32).T
    return values
