"""Pictures that are almost the same: a perceptual hash finds candidates, correlation confirms them.

Plain correlation can't tell a copy from another patient: two fundus photographs of different people
reach 0.99, for the dark corners and the light of the flash are the same. So what a data set's
pictures have in common is taken out first: their mean and their strongest patterns of variation
(principal components). What is left is the picture's own. See docs/leaks.md for the measurements
behind the numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_schemas.progress import Progress
from pipeline.ingest.leaks.small import Pixels, binned

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

NEAR = 0.90
"""Least correlation of what is a picture's own. Measured: other patients stay below 0.86, re-saved,
re-windowed or slightly turned copies lie above 0.93."""

FEWEST = 16
"""Below so many images nobody can say what they have in common."""

_SIDE = 32
_COMMON = 8
_HASH = 128
_CANDIDATE = 0.85
_LEARN_FROM = 4000
_MOST_PAIRS = 200_000
_READ = 64
_ROWS, _COLUMNS = 2048, 8192


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images that are almost the same; ``mirrored``: one is the other's mirror image."""

    first: int
    second: int
    correlation: float
    mirrored: bool


@dataclass(frozen=True)
class Patterns:
    """What the pictures of a data set have in common: a mean and patterns, and what tells them apart."""

    mean: Floats  # [P]
    common: Floats  # [K, P]
    telling: Floats  # [H, P], the basis of the hash

    def own(self, small: Floats) -> Floats:
        """Return what is the pictures' own [N, P], of length 1 (0 for a picture without any)."""
        rest = standard(small) - self.mean
        rest -= (rest @ self.common.T) @ self.common
        return _unit(rest)

    def hashes(self, own: Floats) -> Floats:
        """Return the perceptual hash [N, H]: its dot product estimates the correlation."""
        return _unit(own @ self.telling.T)


def small_grey(pictures: NDArray[np.uint8]) -> Floats:
    """Return pictures [N, S, S, C] as grey of at most 32 x 32 cells, float32 [N, h, w]."""
    return np.asarray(binned(pictures, _SIDE).mean(-1), np.float32)


def learn_patterns(pixels: Pixels, count: int) -> Patterns:
    """Learn from at most 4,000 images, evenly spaced, what the pictures have in common."""
    places = np.unique(np.linspace(0, count - 1, min(count, _LEARN_FROM)).astype(np.int64))
    parts = [standard(small_grey(pixels(some))) for some in _some(places, _READ)]
    rows = np.concatenate(parts)
    mean = rows.mean(0)
    values, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean))
    patterns = np.ascontiguousarray(vectors[:, np.argsort(values)[::-1]].T, np.float32)
    common = min(_COMMON, count // 8)
    return Patterns(mean, patterns[:common], patterns[common : common + _HASH])


def hash_images(
    pixels: Pixels, count: int, patterns: Patterns, progress: Progress
) -> tuple[Floats, Floats]:
    """Return the hashes of all pictures and of their mirror images, float32 [N, H] each.

    This is all that stays in memory of a picture: about a kilobyte.
    """
    width = len(patterns.telling)
    plain, mirrored = np.empty((count, width), np.float32), np.empty((count, width), np.float32)
    for places in _some(np.arange(count), _READ):
        small = small_grey(pixels(places))
        plain[places] = patterns.hashes(patterns.own(small))
        mirrored[places] = patterns.hashes(patterns.own(small[:, :, ::-1]))
        progress(int(places[-1]) + 1, count, "looking at pictures")
    return plain, mirrored


def near_copies(pixels: Pixels, count: int, progress: Progress) -> list[Pair]:
    """Return all pairs of images that are almost the same, the most alike first.

    Two passes over the pixels, in blocks; then every pair of hashes, in blocks.
    """
    if count < FEWEST:
        return []
    patterns = learn_patterns(pixels, count)
    plain, mirrored = hash_images(pixels, count, patterns, progress)
    found: list[Pair] = []
    for others, is_mirrored in ((plain, False), (mirrored, True)):
        for first, second in _some_pairs(_candidates(plain, others, progress)):
            found += _confirmed(pixels, patterns, (first, second), mirrored=is_mirrored)
    best: dict[tuple[int, int], Pair] = {}
    for pair in sorted(found, key=lambda p: (-p.correlation, p.first, p.second)):
        best.setdefault((pair.first, pair.second), pair)
    return list(best.values())


def _candidates(hashes: Floats, others: Floats, progress: Progress) -> tuple[Ints, Ints]:
    # every pair once, first < second: the strongest ones if there are too many of them
    count = len(hashes)
    firsts: list[Ints] = []
    seconds: list[Ints] = []
    strengths: list[Floats] = []
    for top in range(0, count, _ROWS):
        for left in range(top, count, _COLUMNS):
            alike = hashes[top : top + _ROWS] @ others[left : left + _COLUMNS].T
            row, column = np.nonzero(alike >= _CANDIDATE)
            upper = row + top < column + left
            row, column = row[upper], column[upper]
            firsts.append(row + top)
            seconds.append(column + left)
            strengths.append(alike[row, column])
        progress(min(top + _ROWS, count), count, "comparing pictures")
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    keep = np.argsort(-np.concatenate(strengths), kind="stable")[:_MOST_PAIRS]
    return first[keep], second[keep]


def _some_pairs(pairs: tuple[Ints, Ints]) -> Iterator[tuple[Ints, Ints]]:
    order = np.arange(len(pairs[0]))
    for some in _some(order, _READ):
        yield pairs[0][some], pairs[1][some]


def _confirmed(
    pixels: Pixels, patterns: Patterns, pairs: tuple[Ints, Ints], *, mirrored: bool
) -> list[Pair]:
    small = [small_grey(pixels(places)) for places in pairs]
    if mirrored:
        small[1] = small[1][:, :, ::-1]
    alike = np.einsum("np,np->n", patterns.own(small[0]), patterns.own(small[1]))
    return [
        Pair(int(a), int(b), round(float(value), 4), mirrored)
        for a, b, value in zip(*pairs, alike, strict=True)
        if value >= NEAR
    ]


def _some(places: Ints, size: int) -> Iterator[Ints]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


def standard(small: Floats) -> Floats:
    """Return each picture as a row of mean 0 and length 1: brightness and contrast don't count."""
    flat = small.reshape(len(small), -1)
    return _unit(flat - flat.mean(1, keepdims=True))


def _unit(rows: Floats) -> Floats:
    # a picture that has next to nothing of its own must not become noise of length 1
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.where(length > 1e-3, rows / np.maximum(length, 1e-3), 0), np.float32)
