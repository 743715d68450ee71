"""Random changes of training images. Each draw follows from seed, epoch and image, and nothing else.

So a batch's other images, the order and the number of threads don't matter, and an image can be
looked at again exactly as the network saw it. Flips, turn, zoom and shift are one matrix and one
resampling; what happens to the colours is one table per channel.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data_schemas.plan import Augmentation

Pixels = NDArray[np.uint8]
Numbers = NDArray[np.float64]
Augment = Callable[[Pixels, NDArray[np.int64], int], Pixels]
"""(images [N, S, S, C], image ids [N], epoch) -> changed images of the same shape."""

SMALL = 64
"""px up to which images are resampled by cubics: between so few pixels, straight lines blur."""
ERASED = (0.02, 0.2)
"""Smallest and largest share of the image that is blanked out."""

_COLUMNS = (
    "flip_horizontal",
    "flip_vertical",
    "rotation",
    "zoom",
    "shift_x",
    "shift_y",
    "brightness",
    "contrast",
    "noise",
    "gamma",
    "tint_0",
    "tint_1",
    "tint_2",
    "erase",
    "erase_area",
    "erase_shape",
    "erase_x",
    "erase_y",
)
"""What each draw decides. Only ever add at the end: a draw follows from its place."""
_PLACE = {name: place for place, name in enumerate(_COLUMNS)}
_DRAWS = len(_COLUMNS)


def policy(plan: Augmentation, seed: int) -> Augment:
    """Return the planned policy as a function; several threads may call it at once."""
    if not plan.enabled:
        return lambda images, _ids, _epoch: images
    # images are the unit of parallel work, not rows: see batches.py
    cv2.setNumThreads(1)

    def augment(images: Pixels, ids: NDArray[np.int64], epoch: int) -> Pixels:
        numbers = draws(seed, epoch, ids)
        images = np.ascontiguousarray(images)
        images = _moved(plan, images, numbers)
        if plan.erase:
            images = _erased(plan, images, numbers)
        return _noisy(plan, images, numbers) if plan.noise else images

    return augment


def spread(augment: Augment, threads: int) -> Augment:
    """Return ``augment`` with each batch's images shared out among ``threads`` threads.

    The pictures are the same, whatever the number: each follows from its own draws.
    """
    if threads < 2:
        return augment
    pool = ThreadPoolExecutor(threads, "augment")

    def together(images: Pixels, ids: NDArray[np.int64], epoch: int) -> Pixels:
        parts = np.array_split(np.arange(len(ids)), min(threads, len(ids)))
        made = pool.map(lambda part: augment(images[part], ids[part], epoch), parts)
        return np.concatenate(list(made))

    return together


def draws(seed: int, epoch: int, ids: NDArray[np.int64]) -> Numbers:
    """Return numbers in [0, 1) [N, 18] for the images ``ids`` in one epoch of one seed.

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


def matrices(plan: Augmentation, numbers: Numbers, side: int) -> Numbers:
    """Return for each image the matrix [2, 3] from a changed pixel's place to its source's.

    The image is mirrored, turned and zoomed about its middle, then shifted.
    """
    angle = np.deg2rad(plan.rotation_deg) * _about_zero(numbers, "rotation")
    scale = 1 / (1 + plan.zoom * _about_zero(numbers, "zoom"))
    mirrored_x = np.where(plan.flip_horizontal & (_of(numbers, "flip_horizontal") < 0.5), -1, 1)
    mirrored_y = np.where(plan.flip_vertical & (_of(numbers, "flip_vertical") < 0.5), -1, 1)
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    turn = np.empty((len(numbers), 2, 2))
    turn[:, 0, 0], turn[:, 0, 1] = mirrored_x * cosine, mirrored_x * sine
    turn[:, 1, 0], turn[:, 1, 1] = -mirrored_y * sine, mirrored_y * cosine
    shift = np.stack([_about_zero(numbers, axis) for axis in ("shift_x", "shift_y")], axis=1)
    middle = (side - 1) / 2
    moved = middle + plan.shift * side * shift
    offset = middle - np.einsum("nij,nj->ni", turn, moved)
    return np.concatenate([turn, offset[:, :, None]], axis=2)


def tables(plan: Augmentation, numbers: Numbers, means: Numbers, channels: int) -> Pixels | None:
    """Return for each image the new value of each value [N, 256, 1, channels or 1]; None: no change.

    Gamma first, then brightness and each channel's tint, then contrast around the image's mean
    ``means`` [N] as the steps before it leave it. One column serves all channels without a tint.
    """
    if not (plan.brightness or plan.contrast or plan.gamma or plan.tint):
        return None
    # the mean is one more value that goes through the same steps
    values = np.tile(np.arange(256, dtype=np.float32) / 255, (len(numbers), 1))
    values = np.concatenate([values, means[:, None].astype(np.float32) / 255], axis=1)
    if plan.gamma:
        values **= np.exp(plan.gamma * _about_zero(numbers, "gamma")).astype(np.float32)[:, None]
    values *= (1 + plan.brightness * _about_zero(numbers, "brightness")).astype(np.float32)[:, None]
    found, mean = values[:, :-1, None], values[:, -1:, None]
    if plan.tint and channels > 1:
        tints = [_about_zero(numbers, f"tint_{channel}") for channel in range(channels)]
        found = found * (1 + plan.tint * np.stack(tints, axis=1)).astype(np.float32)[:, None]
    strength = (1 + plan.contrast * _about_zero(numbers, "contrast")).astype(np.float32)
    found = (found - mean) * strength[:, None, None] + mean
    return np.clip(np.rint(found * 255), 0, 255).astype(np.uint8)[:, :, None]  # as OpenCV wants it


def _moved(plan: Augmentation, images: Pixels, numbers: Numbers) -> Pixels:
    """Return the images moved and recoloured."""
    side, channels = images.shape[1], images.shape[3]
    moves = plan.flip_horizontal or plan.flip_vertical or plan.rotation_deg or plan.zoom
    moves = moves or plan.shift
    # of the stored images: how much of the picture leaves the frame mustn't change its contrast
    means = np.array([np.mean(cv2.mean(image)[:channels]) for image in images])
    recolour = tables(plan, numbers, means, channels)
    if not moves and recolour is None:
        return images
    places = matrices(plan, numbers, side)
    how = (cv2.INTER_CUBIC if side <= SMALL else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
    changed = np.empty_like(images)
    warped = np.empty_like(images[0])
    for image, place, number in zip(images, changed, range(len(images)), strict=True):
        if moves:
            target = place if recolour is None else warped
            cv2.warpAffine(image, places[number], (side, side), dst=target, flags=how)
            image = target  # noqa: PLW2901
        if recolour is not None:
            cv2.LUT(image, recolour[number], dst=place)
    return changed


def _erased(plan: Augmentation, images: Pixels, numbers: Numbers) -> Pixels:
    """Return the images, some with a rectangle of their mean colour (Zhong et al. 2020)."""
    side = images.shape[1]
    low, high = ERASED
    area = side**2 * (low + (high - low) * _of(numbers, "erase_area"))
    shape = np.exp(np.log(3) * _about_zero(numbers, "erase_shape"))  # a third to three times
    tall, wide = (
        np.clip(np.rint(np.sqrt(part)), 1, side).astype(int)
        for part in (area * shape, area / shape)
    )
    top = (_of(numbers, "erase_y") * (side - tall + 1)).astype(int)
    left = (_of(numbers, "erase_x") * (side - wide + 1)).astype(int)
    changed = images.copy()
    for number in np.flatnonzero(_of(numbers, "erase") < plan.erase):
        rows = slice(top[number], top[number] + tall[number])
        columns = slice(left[number], left[number] + wide[number])
        mean = cv2.mean(images[number])[: images.shape[3]]
        changed[number, rows, columns] = np.rint(mean).astype(np.uint8)
    return changed


def _noisy(plan: Augmentation, images: Pixels, numbers: Numbers) -> Pixels:
    """Return the images with Gaussian grains of their own."""
    changed = np.empty_like(images)
    seeds = (_of(numbers, "noise") * 2.0**53).astype(np.uint64)
    for image, place, seed in zip(images, changed, seeds, strict=True):
        generator = np.random.Generator(np.random.SFC64(int(seed)))
        grains = generator.standard_normal(image.shape, np.float32) * np.float32(255 * plan.noise)
        cv2.add(image, grains, dst=place, dtype=cv2.CV_8U)
    return changed


def _of(numbers: Numbers, name: str) -> Numbers:
    return numbers[:, _PLACE[name]]


def _about_zero(numbers: Numbers, name: str) -> Numbers:
    return 2 * _of(numbers, name) - 1
