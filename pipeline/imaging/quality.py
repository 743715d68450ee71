"""Measures whether a fundus photograph can be judged, and judges it by limits and a learned gate.

Every measure but the exposure is a ratio within the picture, so that it says the same about a
pale and a dark retina, and about cameras of other contrast. docs/quality-gate.md has the figures.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Gate, Quality
from data_schemas.score import QualityAnswer

SIDE = 320
"""Side of the array on which it is measured, whatever the contract's size, so that limits compare."""

_REACH = 0.85
_STEP = 2
_BURNT = 250
_SHADE = 0.4
_DIGITS = 4
_LEAST = 1e-3
_TELLING = 0.3

Plane = NDArray[np.float32]


def measure(square: NDArray[np.uint8], visible: float) -> dict[str, float]:
    """Measure a region of interest.

    Detail at an octave is the mean absolute difference of the box means of 3 and 5 pixels in the
    green channel: octave 0 at full size, 1 and 2 after averaging blocks of 2 x 2 and 4 x 4. The mean,
    because a standard deviation would see little but the optic disc; the 3 pixels, so that noise
    counts little. All but ``shade`` and ``field`` are measured in the lit part of the field.

    Parameters
    ----------
    square
        uint8 [SIDE, SIDE] or [SIDE, SIDE, 3], the field filling the square.
    visible
        Share of the field's circle that is lit and inside the frame.

    Returns
    -------
    features
        ``sharpness``: detail of octave 0 over that of octave 2: blur takes the finest first;
        ``focus``: detail of octave 1 over that of octave 2: the same where noise hides a blur;
        ``texture``: how evenly the fine detail is spread, (mean of the root)^2 over the mean: 1 if
        it is the same everywhere, little where flat blocks have sharp edges;
        ``direction``: the weakest of four directions' detail over the strongest;
        ``contrast``: detail of octave 2 in percent of the mean green;
        ``brightness``: mean of the brightest channel, 0..255;
        ``dark``: stops (factors of two) by which ``brightness`` lies below 128, else 0;
        ``burnt``: share of pixels whose brightest channel is at its end;
        ``shade``: share of the field darker than 0.4 of its bright part (the 90th percentile);
        ``colour``: (red - green) / (red + green): a retina is red;
        ``field``: ``visible``.
    """
    colour = square if square.ndim == 3 else np.repeat(square[..., None], 3, axis=2)
    green = colour[..., 1].astype(np.float32)
    brightest = np.maximum(np.maximum(colour[..., 0], colour[..., 1]), colour[..., 2])
    light = _halved(_halved(brightest.astype(np.float32)))
    inside = _disc(len(light)) & (light >= 1.0)
    if not inside.any():
        return dict.fromkeys(FEATURES, 0.0) | {"dark": 8.0, "field": round(visible, _DIGITS)}
    bright = _SHADE * float(np.percentile(light[inside], 90))
    lit_blocks = _and_neighbours(_and_neighbours(light >= max(bright, 1.0)))
    coarse_seen = _disc(len(light)) & lit_blocks
    weights = coarse_seen.repeat(4, axis=0).repeat(4, axis=1).astype(np.float32)
    fine = np.abs(_detail(green))
    middle_green = _halved(green)
    coarse_green = _halved(middle_green)
    coarse = _mean(np.abs(_detail(coarse_green)), coarse_seen[2:-2, 2:-2].astype(np.float32))
    middle_weights = weights[::2, ::2][2:-2, 2:-2]
    middle = _mean(np.abs(_detail(middle_green)), middle_weights)
    inner = weights[2:-2, 2:-2]
    even = _mean(fine, inner)
    lit = coarse_seen.astype(np.float32)
    brightness = _mean(light, lit)
    mean_green = max(_mean(coarse_green, lit), 1.0)
    mean_red = _mean(colour[::4, ::4, 0].astype(np.float32), lit)
    ways = _ways(green, weights)
    features = {
        "sharpness": even / max(coarse, _LEAST),
        "focus": middle / max(coarse, _LEAST),
        "texture": _mean(np.sqrt(fine), inner) ** 2 / max(even, _LEAST),
        "direction": min(ways) / max(*ways, _LEAST),
        "contrast": 100.0 * coarse / mean_green,
        "brightness": brightness,
        "dark": max(0.0, math.log2(128.0 / max(brightness, 0.5))),
        "burnt": _mean((brightest >= _BURNT).astype(np.float32), weights),
        "shade": float((light[inside] < bright).mean()),
        "colour": (mean_red - mean_green) / max(mean_red + mean_green, 1.0),
        "field": visible,
    }
    return {name: round(value, _DIGITS) for name, value in features.items()}


FEATURES = ("sharpness", "focus", "texture", "direction", "contrast", "brightness", "dark", "burnt", "shade", "colour", "field")  # fmt: skip
"""What :func:`measure` returns."""

_WORDS = {
    "sharpness": "not sharp",
    "focus": "out of focus",
    "texture": "detail is lost in blocks",
    "direction": "smeared in one direction",
    "contrast": "little contrast",
    "dark": "too dark",
    "burnt": "overexposed",
    "shade": "part of the field is in shade",
    "field": "field not visible",
}


def judge(features: dict[str, float], limits: Quality) -> QualityAnswer:
    """Compare features with the contract's limits and its gate; whatever fails gives a reason."""
    reasons = []
    for name, least, most, word_low, word_high in (
        ("sharpness", limits.min_sharpness, math.inf, "not sharp", ""),
        ("brightness", limits.min_brightness, limits.max_brightness, "too dark", "too bright"),
        ("colour", limits.min_colour, math.inf, "not the colour of a retina", ""),
        ("field", limits.min_field, math.inf, "field not visible", ""),
    ):
        value = features[name]
        if value < least:
            reasons.append(f"{word_low}: {name} {value:.2f} < {least:.2f}")
        elif value > most:
            reasons.append(f"{word_high}: {name} {value:.2f} > {most:.2f}")
    if limits.gate is not None:
        gradability = gradable(features, limits.gate)
        features = {**features, "gradability": round(gradability, _DIGITS)}
        if gradability < 0:
            reasons += _why(features, limits.gate)
    return QualityAnswer(sufficient=not reasons, reasons=tuple(reasons), features=features)


def gradable(features: dict[str, float], gate: Gate) -> float:
    """Return the log-odds that a photograph can be judged: below 0 it is refused.

    What is better than typical adds nothing: noise, which looks sharp, must not make up for the dark
    that it comes from.
    """
    return gate.bias - sum(_losses(features, gate).values())


def _losses(features: dict[str, float], gate: Gate) -> dict[str, float]:
    return {
        name: max(0.0, term.weight * (term.typical - features[name]))
        for name, term in gate.terms.items()
    }


def _why(features: dict[str, float], gate: Gate) -> list[str]:
    # what takes most away from a typical photograph's odds
    loss = _losses(features, gate)
    whole = sum(loss.values())
    telling = sorted((n for n in loss if loss[n] > _TELLING * whole), key=lambda n: -loss[n])
    told = telling or [max(loss, key=lambda name: loss[name])]
    return [
        f"{_WORDS.get(name, name)}: {name} {features[name]:.2f}, typical {gate.terms[name].typical:.2f}"
        for name in told
    ]


@cache
def _disc(side: int) -> NDArray[np.bool_]:
    # 85 % of the radius: the field's own edge would count as detail
    away = np.arange(side) - (side - 1) / 2
    return np.asarray(away[:, None] ** 2 + away[None, :] ** 2 <= (_REACH * side / 2) ** 2)


def _and_neighbours(lit: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # what borders on shade or on the frame's edge holds that edge, not the retina's detail
    wide = np.pad(lit, 1, constant_values=False)
    rows = wide[:-2] & wide[1:-1] & wide[2:]
    return np.asarray(rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:])


def _halved(plane: Plane) -> Plane:
    columns = plane[:, ::2] + plane[:, 1::2]
    mean: Plane = (columns[::2] + columns[1::2]) * np.float32(0.25)
    return mean


def _detail(plane: Plane) -> Plane:
    """Return box mean of 3 minus box mean of 5, [n - 4, n - 4]."""
    three = plane[:-2] + plane[1:-1] + plane[2:]
    five = three[:-2] + plane[3:-1] + plane[4:]
    inner = three[1:-1]
    narrow = inner[:, 1:-3] + inner[:, 2:-2] + inner[:, 3:-1]
    wide = five[:, :-4] + five[:, 1:-3] + five[:, 2:-2] + five[:, 3:-1] + five[:, 4:]
    difference: Plane = narrow * np.float32(1 / 9) - wide * np.float32(1 / 25)
    return difference


def _ways(plane: Plane, weights: Plane) -> list[float]:
    # second differences across 2 pixels along the rows, the columns and both diagonals
    n, s = len(plane), _STEP
    middle = plane[s : n - s, s : n - s] * np.float32(2)
    inner = weights[s : n - s, s : n - s]
    found = []
    for down, right in ((0, s), (s, s), (s, 0), (s, -s)):
        one = plane[s + down : n - s + down, s + right : n - s + right]
        other = plane[s - down : n - s - down, s - right : n - s - right]
        found.append(_mean(np.abs(middle - one - other), inner))
    return found


def _mean(values: Plane, weights: Plane) -> float:
    return float((values * weights).sum(dtype=np.float64) / max(float(weights.sum()), 1.0))
