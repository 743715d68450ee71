"""Draws histograms as small SVG elements, one for each split, on common scales."""

from collections.abc import Mapping
from html import escape

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_WIDTH, _HEIGHT = 232, 96
_TOP, _FLOOR = 8, 78
_BINS = 24


def histograms(title: str, unit: str, groups: Mapping[str, Floats]) -> str:
    """Return one histogram for each group: shares on one vertical scale, values on one horizontal.

    A thin line marks the median. Groups without values are left out.
    """
    filled = {name: values for name, values in groups.items() if len(values)}
    if not filled:
        return ""
    every = np.concatenate(list(filled.values()))
    low, high = _range(every)
    edges = np.linspace(low, high, _BINS + 1)
    shares = {n: np.histogram(v, edges)[0] / len(v) for n, v in filled.items()}
    tallest = max(float(part.max()) for part in shares.values())
    drawn = "".join(
        _histogram(name, filled[name], shares[name], (low, high, tallest), unit) for name in filled
    )
    return f'<figure class="charts"><figcaption>{escape(title)}</figcaption><div>{drawn}</div></figure>'


def _range(values: Floats) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:
        return low - 0.5, high + 0.5
    return low, high


def _histogram(
    name: str, values: Floats, shares: Floats, scale: tuple[float, float, float], unit: str
) -> str:
    low, high, tallest = scale
    width = _WIDTH / _BINS
    bars = []
    for k, part in enumerate(shares):
        height = (_FLOOR - _TOP) * float(part) / tallest
        if height > 0:
            bars.append(f"M{k * width:.1f} {_FLOOR}v{-height:.1f}h{width - 1:.1f}v{height:.1f}z")
    median, least, most = (float(v) for v in np.quantile(values, (0.5, 0.05, 0.95)))
    at = _WIDTH * (median - low) / (high - low)
    says = (
        f"{name}: {len(values):,} images, median {_number(median)}{unit}, "
        f"5th to 95th percentile {_number(least)} to {_number(most)}"
    )
    return (
        f'<div><p>{escape(name)} <span class="quiet">n {len(values):,}, median {_number(median)}</span></p>'
        f'<svg class="histogram" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(says)}">'
        f'<path class="bars" d="{"".join(bars)}"/><path class="floor" d="M0 {_FLOOR}H{_WIDTH}"/>'
        f'<path class="median" d="M{at:.1f} {_TOP - 4}V{_FLOOR}"/>'
        f'<text x="0" y="{_HEIGHT - 4}">{_number(low)}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 4}" text-anchor="end">{_number(high)}{escape(unit)}</text></svg></div>'
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 20 or value == round(value) else f"{value:.1f}"
