"""MedMNIST's official scores of several seeds: mean, spread, and an interval from draws of images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_schemas.files import sha256
from pipeline.evaluate.bootstrap import REPLICATES
from pipeline.evaluate.statistics import official_accuracy, official_auc

COPY = 0.99
Statistic = Callable[[NDArray[np.int64], NDArray[np.float64]], float]


@dataclass(frozen=True)
class Answers:
    """One network's answers on the official test images, in one order for all seeds."""

    truth: NDArray[np.int64]  # [N]
    classes: NDArray[np.float64]  # [N, K]
    copied: NDArray[np.bool_]  # has a near-copy in train or val, [N]


@dataclass(frozen=True)
class Spread:
    """A score over seeds."""

    values: tuple[float, ...]
    low: float
    high: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def text(self) -> str:
        if len(self.values) < 2:
            return f"{self.mean:.3f} (one seed)"
        return f"{self.mean:.3f} ± {float(np.std(self.values, ddof=1)):.3f}"

    @property
    def interval(self) -> str:
        return f"{self.low:.3f}-{self.high:.3f}"


@dataclass(frozen=True)
class Score:
    """Both official scores, and again without copies where there are any."""

    images: int
    auc: Spread
    accuracy: Spread
    without: "Score | None" = None


def score(seeds: list[Answers]) -> Score:
    """Return the scores of networks that answered the same images."""
    first = seeds[0]
    assert all((one.truth == first.truth).all() for one in seeds)
    keep = np.flatnonzero(~first.copied)
    without = None
    if 0 < len(keep) < len(first.truth):
        own = [Answers(s.truth[keep], s.classes[keep], s.copied[keep]) for s in seeds]
        without = score(own)
    # an area needs both classes in every draw; accuracy also varies by how many of each are drawn
    auc = _spread(seeds, official_auc, by_class=True)
    accuracy = _spread(seeds, official_accuracy, by_class=False)
    return Score(len(first.truth), auc, accuracy, without)


def copies(source: Path, digests: list[str]) -> NDArray[np.bool_]:
    """Return which test images correlate over :data:`COPY` with an image of train or val, [N].

    ``digests`` are the SHA-256 of the arrays' bytes, in the order wanted.
    """
    with np.load(source) as arrays:
        test = arrays["test_images"]
        others = np.concatenate([arrays["train_images"], arrays["val_images"]])
    nearest = np.max(_standard(test) @ _standard(others).T, axis=1)
    by_digest = dict(zip((sha256(one.tobytes()) for one in test), nearest > COPY, strict=True))
    return np.array([by_digest[digest] for digest in digests], np.bool_)


def _standard(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _spread(seeds: list[Answers], statistic: Statistic, *, by_class: bool) -> Spread:
    truth = seeds[0].truth
    values = tuple(statistic(truth, one.classes) for one in seeds)
    generator = np.random.default_rng(0)
    kinds = truth if by_class else np.zeros_like(truth)
    groups = [np.flatnonzero(kinds == value) for value in np.unique(kinds)]
    drawn = []
    for _ in range(REPLICATES):
        rows = np.concatenate([generator.choice(own, own.size) for own in groups])
        drawn.append(np.mean([statistic(truth[rows], one.classes[rows]) for one in seeds]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Spread(values, float(low), float(high))
