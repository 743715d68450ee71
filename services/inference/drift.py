"""Drift: the last scores of each version against its package's reference, over all workers.

Each worker counts its own last images into the reference's bins and keeps them as gauges that add up over
workers, like all figures. What they mean is worked out when the figures are asked for.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from data_schemas.score import Score
from pipeline.model.reference import Histogram, Reference, Sight

_COUNTS, _SUMS = "hilum_window_images", "hilum_window_sums"
_ALL = "all"
"""What the number of images in the window stands under, among the bins of histograms."""


@dataclass(frozen=True, slots=True)
class _Noted:
    bins: tuple[tuple[str, int], ...]
    along: NDArray[np.float64]  # [w]


@dataclass(slots=True)
class _Window:
    reference: Reference
    last: deque[_Noted]
    counts: defaultdict[tuple[str, int], int]
    sums: NDArray[np.float64]  # [w]


class Drift:
    """The window of one worker. Thread-safe.

    Parameters
    ----------
    registry
        Where the window's gauges are kept.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._size = 0
        self._lock = threading.Lock()
        self._windows: dict[str, _Window] = {}
        self._counts = Gauge(
            _COUNTS,
            "Images in the window, by bin.",
            ["version", "of", "bin"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._sums = Gauge(
            _SUMS,
            "Sums over the window along the watched axes.",
            ["version", "axis"],
            registry=registry,
            multiprocess_mode="livesum",
        )

    def follow(self, version: str, reference: Reference | None, size: int) -> None:
        """Watch this version from now on, over its last ``size`` images, and no other any more."""
        with self._lock:
            for other, window in self._windows.items():
                self._clear(other, window)
            self._size = size
            self._windows = {}
            if reference is not None and size > 0:
                sums = np.zeros(len(reference.centre))
                self._windows[version] = _Window(reference, deque(), defaultdict(int), sums)

    def note(self, score: Score, sight: Sight) -> None:
        """Take an image that the network saw into the window, and the oldest out."""
        with self._lock:
            window = self._windows.get(score.model.version)
            if window is None:
                return
            noted = _Noted(tuple(_bins(score, sight, window.reference)), sight.along)
            window.last.append(noted)
            changed = dict.fromkeys(noted.bins, 1)
            sums = noted.along
            if len(window.last) > self._size:
                oldest = window.last.popleft()
                sums = sums - oldest.along
                for key in oldest.bins:
                    changed[key] = changed.get(key, 0) - 1
            window.sums = window.sums + sums
            for (of, place), by in changed.items():
                if by:
                    window.counts[of, place] += by
                    counted = window.counts[of, place]
                    self._counts.labels(score.model.version, of, str(place)).set(counted)
            for axis, total in enumerate(window.sums):
                self._sums.labels(score.model.version, str(axis)).set(float(total))

    def _clear(self, version: str, window: _Window) -> None:
        for of, place in window.counts:
            self._counts.labels(version, of, str(place)).set(0)
        for axis in range(len(window.sums)):
            self._sums.labels(version, str(axis)).set(0)

    def told(self, families: Iterable[Metric]) -> Iterator[Metric]:
        """Yield the families, the windows' own replaced by what they mean."""
        counts: dict[str, dict[str, dict[int, float]]] = {}
        sums: dict[str, dict[int, float]] = {}
        for family in families:
            if family.name == _COUNTS:
                for sample in family.samples:
                    of = counts.setdefault(sample.labels["version"], {})
                    place = int(sample.labels["bin"])
                    of.setdefault(sample.labels["of"], {})[place] = sample.value
            elif family.name == _SUMS:
                for sample in family.samples:
                    axes = sums.setdefault(sample.labels["version"], {})
                    axes[int(sample.labels["axis"])] = sample.value
            else:
                yield family
        with self._lock:
            references = {version: one.reference for version, one in self._windows.items()}
        yield from _drift(references, counts, sums)


def _bins(score: Score, sight: Sight, reference: Reference) -> Iterator[tuple[str, int]]:
    yield _ALL, 0
    distance = None if score.scope is None else score.scope.distance
    values = {f"quality/{name}": value for name, value in sight.features.items()}
    values |= {} if distance is None else {"distance": distance}
    for finding in score.findings:
        if finding.probability is not None:
            values[f"probability/{finding.name}"] = finding.probability
    for name, histogram in reference.histograms.items():
        if name in values:
            yield name, histogram.bin_of(values[name])


def _drift(
    references: Mapping[str, Reference],
    counts: Mapping[str, Mapping[str, Mapping[int, float]]],
    sums: Mapping[str, Mapping[int, float]],
) -> Iterator[Metric]:
    images = GaugeMetricFamily(
        "hilum_drift_images",
        "Images in the window that drift is measured over.",
        labels=["version"],
    )
    index = GaugeMetricFamily(
        "hilum_drift_psi",
        "Population stability index of a number in the window against the package's reference.",
        labels=["version", "of"],
    )
    shift = GaugeMetricFamily(
        "hilum_drift_embedding_shift",
        "Largest shift of the window's mean embedding along a watched axis, in standard deviations.",
        labels=["version"],
    )
    for version, reference in references.items():
        found = counts.get(version, {})
        total = found.get(_ALL, {}).get(0, 0.0)
        images.add_metric([version], total)
        if total <= 0:
            continue
        for name, histogram in reference.histograms.items():
            if name in found:
                value = stability_index(found[name], histogram, reference.held_out)
                index.add_metric([version, name], value)
        means = [abs(value) / total for value in sums.get(version, {}).values()]
        shift.add_metric([version], max(means, default=0.0))
    yield from (images, index, shift)


def stability_index(counts: Mapping[int, float], histogram: Histogram, held_out: int) -> float:
    """Return the population stability index of counts by bin against a reference of ``held_out`` images.

    The sum over bins of (p - q) ln(p / q) (Siddiqi 2006; Jeffreys' divergence), with half an image
    added to each bin so that an empty one is no infinity.
    """
    bins = len(histogram.shares)
    now = np.array([counts.get(place, 0.0) for place in range(bins)]) + 0.5
    then = histogram.shares * held_out + 0.5
    p, q = now / now.sum(), then / then.sum()
    return float(((p - q) * np.log(p / q)).sum())
