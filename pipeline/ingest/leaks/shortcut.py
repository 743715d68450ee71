"""Things beside the disease that alone predict a label: the site, the device, the size, the border."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.leaks import LeakFinding
from pipeline.ingest.leaks.images import Images
from pipeline.ingest.store import Dataset

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Strings = NDArray[np.str_]

AUC = 0.75
"""Report a measured value that alone ranks a class this well (folded: at least 0.5)."""

ASSOCIATION = 0.30
"""Report a category whose Cramér's V with the label is this large: a medium effect (Cohen 1988)."""

LEVEL = 0.05
"""Largest p-value, multiplied by the number of tests (Bonferroni)."""

_PERMUTATIONS = 1999
_MOST = 5000
_FEWEST = 20
_RAREST = 5
_CATEGORIES = ("site", "device", "view", "laterality", "format", "modality")
_SIZE = "size of the source"
_ADVICE = {
    "site": "hold a site out (`hilum ingest --external SITE`) and compare",
    "device": "compare the figures device by device",
    "laterality": "a side has no disease: look at how the images were collected",
}
_OTHERWISE = "a model may learn this instead of the disease: look at how the images were collected"


@dataclass(frozen=True, slots=True)
class Shortcut:
    """How strongly one variable goes with a label."""

    variable: str
    measure: str
    strength: float
    p: float
    images: int


def shortcuts(dataset: Dataset, images: Images, measured: dict[str, Floats]) -> list[LeakFinding]:
    """Test every variable against every label, one image of each patient.

    Parameters
    ----------
    measured
        Numbers of each image, such as its mean intensity.
    """
    numbers, categories = _variables(dataset, measured)
    first = np.unique(images.patient, return_index=True)[1]
    tested = []
    for label, values in images.labels.items():
        rows = _spread(first[values[first] >= 0])
        truth, enough = _frequent(values[rows])
        if truth.size < _FEWEST or len(np.unique(truth)) < 2:
            continue
        rows = rows[enough]
        found = [_of_number(name, column[rows], truth) for name, column in numbers.items()]
        found += [_of_category(name, column[rows], truth) for name, column in categories.items()]
        tested += [(label, one) for one in found if one is not None]
    return [
        _finding(images, label, one)
        for label, one in tested
        if one.strength >= (AUC if one.measure == "AUC" else ASSOCIATION)
        and one.p * len(tested) <= LEVEL
    ]


def _variables(
    dataset: Dataset, measured: dict[str, Floats]
) -> tuple[dict[str, Floats], dict[str, Strings]]:
    def column(name: str) -> list[Any]:
        values: list[Any] = dataset.manifest[name].to_pylist()
        return values

    rows, columns = column("source_rows"), column("source_columns")
    numbers = {
        "height of the source": np.array(rows, np.float64),
        "width of the source": np.array(columns, np.float64),
        **measured,
    }
    categories = {name: np.array(column(name), dtype=np.str_) for name in _CATEGORIES}
    sizes = [f"{height} x {width}" for height, width in zip(rows, columns, strict=True)]
    categories[_SIZE] = np.array(sizes, dtype=np.str_)
    return numbers, categories


def _spread(rows: Ints) -> Ints:
    # evenly spaced in manifest order, which is the order of digests: as good as drawn by lot
    return rows if len(rows) <= _MOST else rows[np.linspace(0, len(rows) - 1, _MOST).astype(int)]


def _frequent(truth: Ints) -> tuple[Ints, Ints]:
    counts = np.bincount(truth)
    keep = np.flatnonzero(counts[truth] >= _RAREST)
    return truth[keep], keep


def _of_number(name: str, values: Floats, truth: Ints) -> Shortcut | None:
    """Largest folded ROC area of one class against the rest (Mann-Whitney, ties by half)."""
    if np.ptp(values) == 0:
        return None
    _, place, ties = np.unique(values, return_inverse=True, return_counts=True)
    rank = (np.cumsum(ties) - (ties - 1) / 2)[place]
    classes, code, counts = np.unique(truth, return_inverse=True, return_counts=True)
    others = len(truth) - counts

    def strength(codes: Ints) -> float:
        sums = np.bincount(codes, weights=rank, minlength=len(classes))
        area = (sums - counts * (counts + 1) / 2) / (counts * others)
        return float(np.maximum(area, 1 - area).max())

    return _tested(name, "AUC", strength, code)


def _of_category(name: str, values: Strings, truth: Ints) -> Shortcut | None:
    """Cramér's V, corrected for its bias in small tables (Bergsma 2013)."""
    kinds, kind, sizes = np.unique(values, return_inverse=True, return_counts=True)
    # a category for nearly every image (a size of its own) tells images apart, not classes
    if len(kinds) < 2 or len(kinds) > len(truth) // 4:
        return None
    classes, code, counts = np.unique(truth, return_inverse=True, return_counts=True)
    n, r, k = len(truth), len(kinds), len(classes)
    expected = sizes[:, None] * counts[None, :] / n
    rows, columns = r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)

    def strength(codes: Ints) -> float:
        table = np.bincount(kind * k + codes, minlength=r * k).reshape(r, k)
        phi = float(((table - expected) ** 2 / expected).sum()) / n
        better = max(0.0, phi - (r - 1) * (k - 1) / (n - 1))
        return float(np.sqrt(better / min(rows - 1, columns - 1)))

    return _tested(name, "Cramér's V", strength, code)


def _tested(name: str, measure: str, strength: Callable[[Ints], float], codes: Ints) -> Shortcut:
    found = strength(codes)
    floor = AUC if measure == "AUC" else ASSOCIATION
    if found < floor:  # too weak to be told, whatever its p-value
        return Shortcut(name, measure, found, 1.0, len(codes))
    generator = np.random.default_rng(20)
    chance = [strength(generator.permutation(codes)) for _ in range(_PERMUTATIONS)]
    reached = sum(value >= found - 1e-12 for value in chance)
    return Shortcut(name, measure, found, (1 + reached) / (1 + _PERMUTATIONS), len(codes))


def _finding(images: Images, label: str, found: Shortcut) -> LeakFinding:
    advice = _ADVICE.get(found.variable, _OTHERWISE)
    sentence = (
        f"the {found.variable} alone predicts `{label}`: {found.measure} {found.strength:.2f} "
        f"(permutation p = {found.p:.4f}, {found.images} images of as many patients): {advice}"
    )
    return images.finding("shortcut", [], sentence, value=round(found.strength, 4))
