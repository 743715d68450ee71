"""Between the loader and the network: images blended, made smaller in early epochs, a batch in parts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data_schemas.plan import Learning
from pipeline.train.batches import Batch

SMALL_SIDE = 0.7
"""Side of the images that early epochs see, of their own: half the pixels."""
_MULTIPLE = 32
"""Smaller images keep a side that every backbone's stride divides."""
_STREAM = 0x3BA7C4
"""Sets these draws apart from others that follow from the same seed and epoch."""


@dataclass(frozen=True, slots=True)
class Part:
    """Images [n, S, S, C] that go through the network together, and what they should answer.

    A share of ``share`` of each image (or of the loss, for a blend) goes by ``targets`` [n, L], the
    rest by ``others`` [n, L]. ``weight`` is what this part's mean loss counts for: over the parts of
    a batch the weights add up to the batch's own.
    """

    images: Tensor  # uint8 as stored, float32 on the same scale after a blend
    targets: Tensor
    others: Tensor
    share: float
    weight: float | Tensor


class Mixing:
    """Makes the parts of a batch. Draws follow from seed, epoch and step, so a resume repeats them.

    ``mixup`` blends each image with another one of the batch (Zhang et al. 2018), ``cutmix`` pastes
    a rectangle of the other one in (Yun et al. 2019); with both, one or the other for each batch.
    The share is drawn from Beta(a, a), once a batch: all processes draw the same one, and blend
    within their own part of the batch.

    The first ``small_epochs`` of the epochs see every image at :data:`SMALL_SIDE` of its side: a
    network learns the coarse first and the fine last, at half the cost meanwhile (progressive
    resizing; Tan & Le 2021, EfficientNetV2, §4).
    """

    def __init__(self, learning: Learning, seed: int) -> None:
        self._mixup, self._cutmix = learning.mixup, learning.cutmix
        self._parts, self._seed = learning.accumulate, seed
        self._small = small_epochs(learning.small_epochs, learning.epochs)

    def __call__(self, batch: Batch, epoch: int, step: int) -> Iterator[Part]:
        """Yield the parts of the batch that comes after ``step`` steps of ``epoch``."""
        whole = Part(batch.images, batch.targets, batch.targets, 1.0, batch.weight)
        if self._mixup or self._cutmix:
            generator = np.random.default_rng([self._seed, epoch, step, _STREAM])
            whole = self._mixed(whole, generator)
        if epoch <= self._small:
            whole = replace(whole, images=smaller(whole.images))
        if self._parts == 1:
            yield whole
        else:
            yield from _split(whole, self._parts)

    def _mixed(self, whole: Part, generator: np.random.Generator) -> Part:
        pastes = bool(self._cutmix) and (not self._mixup or generator.random() < 0.5)
        strength = self._cutmix if pastes else self._mixup
        share = float(generator.beta(strength, strength))
        size = whole.images.shape[1]
        window, pasted = _window(1 - share, size, generator)
        partner = torch.from_numpy(generator.permutation(len(whole.images)))
        partner = partner.to(whole.images.device)
        others = whole.targets[partner]
        if pastes:
            images = whole.images.clone()
            rows, columns = window
            images[:, rows, columns] = whole.images[partner][:, rows, columns]
            return Part(images, whole.targets, others, 1 - pasted, whole.weight)
        own = whole.images.float()
        return Part(
            torch.lerp(own[partner], own, share), whole.targets, others, share, whole.weight
        )


def small_epochs(share: float, epochs: int) -> int:
    """Return how many epochs, from the first, see smaller images: never the last one."""
    return min(round(share * epochs), epochs - 1)


def smaller(images_bhwc: Tensor) -> Tensor:
    """Return images [n, s, s, C] float32 at :data:`SMALL_SIDE` of their side, as a multiple of 32.

    Images that this would not make smaller come back as they are.
    """
    side = images_bhwc.shape[1]
    wanted = max(_MULTIPLE, round(SMALL_SIDE * side / _MULTIPLE) * _MULTIPLE)
    if wanted >= side:
        return images_bhwc
    planes = images_bhwc.permute(0, 3, 1, 2).float()
    reduced = functional.interpolate(planes, (wanted, wanted), mode="bilinear", antialias=True)
    return reduced.permute(0, 2, 3, 1)


def _window(
    area: float, size: int, generator: np.random.Generator
) -> tuple[tuple[slice, slice], float]:
    """Return a window of about ``area`` of the image, cut off at its edge, and its exact area."""
    half = size * np.sqrt(area) / 2
    spans = []
    for centre in generator.uniform(0, size, 2):
        low, high = (int(np.clip(round(end), 0, size)) for end in (centre - half, centre + half))
        spans.append(slice(low, high))
    rows, columns = spans
    covered = (rows.stop - rows.start) * (columns.stop - columns.start)
    return (rows, columns), covered / size**2


def _split(whole: Part, count: int) -> Iterator[Part]:
    """Yield ``count`` parts of nearly one size, fewer if there are fewer images.

    Each counts for the labels that are known of it: the mean of the whole is a mean over labels.
    """
    count = min(count, len(whole.images))
    columns = (whole.images, whole.targets, whole.others)
    all_known = _known(whole.targets, whole.others, whole.share).clamp(min=1e-6)
    for images, targets, others in zip(*(c.tensor_split(count) for c in columns), strict=True):
        weight = whole.weight * _known(targets, others, whole.share) / all_known
        yield Part(images, targets, others, whole.share, weight)


def _known(targets: Tensor, others: Tensor, share: float) -> Tensor:
    return share * (targets >= 0).sum() + (1 - share) * (others >= 0).sum()
