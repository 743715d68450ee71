"""Random changes of training images. Each draw follows from seed, epoch and image, and nothing else.

So a batch's other images, the order and the number of threads don't matter, and an image can be
looked at again exactly as the network saw it. Two flavours of the same policy: torchvision's and
MONAI's transforms.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_schemas.plan import Augmentation
from pipeline.train import compat as _compat  # noqa: F401 - must come before torchvision

Augment = Callable[[NDArray[np.uint8], NDArray[np.int64], int], NDArray[np.uint8]]
"""(images [N, S, S, C], image ids [N], epoch) -> changed images of the same shape."""

_DRAWS = 9
_FLIP_H, _FLIP_V, _ROTATE, _ZOOM, _SHIFT_X, _SHIFT_Y, _BRIGHT, _CONTRAST, _SEED = range(_DRAWS)


def policy(plan: Augmentation, seed: int) -> Augment:
    """Return the planned policy as a function."""
    if plan.library == "none":
        return lambda images, _ids, _epoch: images
    change = _torchvision(plan) if plan.library == "torchvision" else _monai(plan)

    def augment(images: NDArray[np.uint8], ids: NDArray[np.int64], epoch: int) -> NDArray[np.uint8]:
        numbers = draws(seed, epoch, ids)
        changed = np.empty_like(images)
        for place, image in enumerate(images):
            chw = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
            changed[place] = change(chw, numbers[place]).numpy().transpose(1, 2, 0)
        return changed

    return augment


def draws(seed: int, epoch: int, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return numbers in [0, 1) [N, 9] for the images ``ids`` in one epoch of one seed.

    A counter-based generator: SplitMix64 (Steele, Lea & Flood 2014) of the three numbers.
    """
    with np.errstate(over="ignore"):  # the arithmetic is modulo 2**64 on purpose
        start = _mix(np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15))
        start = _mix(start ^ np.uint64(epoch))
        per_image = _mix(start ^ ids.astype(np.uint64))[:, None]
        columns = np.arange(1, _DRAWS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        words = _mix(per_image + columns)
    return np.asarray(words >> np.uint64(11), np.float64) / 2.0**53


def _mix(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _torchvision(plan: Augmentation) -> Callable[[Tensor, NDArray[np.float64]], Tensor]:
    from torchvision.transforms.v2 import functional

    bilinear = functional.InterpolationMode.BILINEAR

    def change(image: Tensor, numbers: NDArray[np.float64]) -> Tensor:
        side = image.shape[-1]
        centred = 2 * numbers - 1
        if plan.flip_horizontal and numbers[_FLIP_H] < 0.5:
            image = functional.horizontal_flip(image)
        if plan.flip_vertical and numbers[_FLIP_V] < 0.5:
            image = functional.vertical_flip(image)
        if plan.rotation_deg or plan.zoom or plan.shift:
            image = functional.affine(
                image,
                angle=float(centred[_ROTATE] * plan.rotation_deg),
                translate=[
                    float(centred[axis] * plan.shift * side) for axis in (_SHIFT_X, _SHIFT_Y)
                ],
                scale=float(1 + centred[_ZOOM] * plan.zoom),
                shear=[0.0, 0.0],
                interpolation=bilinear,
            )
        if plan.brightness:
            factor = float(1 + centred[_BRIGHT] * plan.brightness)
            image = functional.adjust_brightness(image, factor)
        if plan.contrast:
            image = functional.adjust_contrast(image, float(1 + centred[_CONTRAST] * plan.contrast))
        if plan.noise:
            image = _noisy(image, plan.noise, int(numbers[_SEED] * 2**53))
        return image

    return change


def _noisy(image: Tensor, noise: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    grains = torch.randn(image.shape, generator=generator) * (255 * noise)
    return (image + grains).round().clamp(0, 255).to(torch.uint8)


def _monai(plan: Augmentation) -> Callable[[Tensor, NDArray[np.float64]], Tensor]:
    from monai import transforms

    def steps(side: int) -> Any:
        chain: list[Any] = []
        if plan.flip_horizontal:
            chain.append(transforms.RandFlip(prob=0.5, spatial_axis=1))
        if plan.flip_vertical:
            chain.append(transforms.RandFlip(prob=0.5, spatial_axis=0))
        if plan.rotation_deg or plan.zoom or plan.shift:
            chain.append(
                transforms.RandAffine(
                    prob=1.0,
                    rotate_range=math.radians(plan.rotation_deg),
                    translate_range=(plan.shift * side, plan.shift * side),
                    scale_range=(plan.zoom, plan.zoom),
                    padding_mode="zeros",
                )
            )
        if plan.brightness:
            chain.append(transforms.RandScaleIntensity(factors=plan.brightness, prob=1.0))
        if plan.contrast:
            gamma = (1 - plan.contrast, 1 + plan.contrast)
            chain.append(transforms.RandAdjustContrast(prob=1.0, gamma=gamma))
        if plan.noise:
            chain.append(transforms.RandGaussianNoise(prob=1.0, std=plan.noise))
        return transforms.Compose(chain)

    built: dict[int, Any] = {}

    def change(image: Tensor, numbers: NDArray[np.float64]) -> Tensor:
        chain = built.setdefault(image.shape[-1], None) or steps(image.shape[-1])
        built[image.shape[-1]] = chain
        chain.set_random_state(seed=int(numbers[_SEED] * 2**32))
        changed: Tensor = torch.as_tensor(chain(image.float() / 255))
        return (changed * 255).round().clamp(0, 255).to(torch.uint8)

    return change
