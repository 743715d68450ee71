"""Degrades a photograph in steps, each as a camera, an eye or a network does it.

Lengths are in pixels of a picture 768 wide, and grow with the width. The last step of each kind
is a picture that nobody could grade.
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Picture = NDArray[np.uint8]
_REFERENCE_WIDTH = 768
_GAMMA = 2.2
_SENSOR_NOISE = 1.5
"""Grey levels; what is lost before the sensor is lost under its noise, which stays sharp."""


def _blurred(picture: Picture, sigma: float, rng: np.random.Generator) -> Picture:
    return _per_channel(
        picture, lambda plane: ndimage.gaussian_filter(plane, _px(picture, sigma)), rng
    )


def _defocused(picture: Picture, radius: float, rng: np.random.Generator) -> Picture:
    # a lens out of focus spreads each point over its aperture: a disc
    reach = _px(picture, radius)
    half = int(np.ceil(reach))
    away = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1])
    return _convolved(picture, np.clip(reach + 0.5 - away, 0.0, 1.0), rng)


def _moved(picture: Picture, length: float, rng: np.random.Generator) -> Picture:
    # the eye moved in a straight line while the flash burnt
    reach = _px(picture, length) / 2
    half = int(np.ceil(reach))
    angle = rng.uniform(0, np.pi)
    along = np.linspace(-reach, reach, 8 * half + 1)
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    rows, columns = half + along * np.sin(angle), half + along * np.cos(angle)
    np.add.at(kernel, (rows.round().astype(int), columns.round().astype(int)), 1.0)
    return _convolved(picture, kernel, rng)


def _exposed(picture: Picture, stops: float, rng: np.random.Generator) -> Picture:
    # light is doubled by each stop; the stored value is its root, clipped, with the sensor's noise
    light = (picture / 255.0) ** _GAMMA * 2.0**stops
    stored = 255.0 * np.clip(light, 0.0, 1.0) ** (1.0 / _GAMMA)
    noise = rng.normal(0.0, _SENSOR_NOISE, picture.shape) if stops < 0 else 0.0
    return _as_bytes(stored + noise)


def _shaded(picture: Picture, share: float, rng: np.random.Generator) -> Picture:
    # a lid, a small pupil or a camera held askew: one side of the field stays dark
    lit = picture.max(axis=2) > 30
    rows, columns = np.nonzero(lit)
    angle = rng.uniform(0, 2 * np.pi)
    grid_rows, grid_columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    along = grid_rows * np.sin(angle) + grid_columns * np.cos(angle)
    edge = np.quantile(rows * np.sin(angle) + columns * np.cos(angle), share)
    width = max(_px(picture, 15.0), 1.0)
    gain = np.clip(0.5 + (along - edge) / width, 0.03, 1.0)
    return _as_bytes(picture * gain[..., None])


def _compressed(picture: Picture, quality: float, _: np.random.Generator) -> Picture:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=int(quality))
    return np.asarray(Image.open(stream).convert("RGB"))


DEGRADATIONS: dict[
    str, tuple[str, tuple[float, ...], Callable[[Picture, float, np.random.Generator], Picture]]
] = {
    "blur": ("Gaussian, sigma in px", (1, 2, 3, 4, 6), _blurred),
    "defocus": ("disc, radius in px", (2, 4, 6, 9, 13), _defocused),
    "motion": ("line, length in px", (6, 12, 18, 26, 40), _moved),
    "dark": ("exposure in stops", (-1, -2, -3, -4, -5), _exposed),
    "bright": ("exposure in stops", (0.5, 1, 2, 3, 4), _exposed),
    "half field": ("share of the field in shade", (0.1, 0.2, 0.35, 0.5, 0.65), _shaded),
    "compression": ("JPEG quality", (40, 20, 10, 5, 2), _compressed),
}
"""Name -> what its number means, the steps from mild to hopeless, and the function."""


def degrade(picture: Picture, kind: str, step: float, seed: int) -> Picture:
    """Return uint8 [H, W, 3] degraded by one step; the same seed gives the same picture."""
    return DEGRADATIONS[kind][2](picture, step, np.random.default_rng(seed))


def _px(picture: Picture, pixels: float) -> float:
    return pixels * picture.shape[1] / _REFERENCE_WIDTH


def _convolved(picture: Picture, kernel: NDArray[np.float64], rng: np.random.Generator) -> Picture:
    kernel = kernel / kernel.sum()
    half = len(kernel) // 2
    shape = [side + 2 * half for side in picture.shape[:2]]
    transform = np.fft.rfft2(kernel, shape)

    def one(plane: NDArray[np.float32]) -> NDArray[np.float32]:
        wide = np.pad(plane, half, mode="edge")
        out = np.fft.irfft2(np.fft.rfft2(wide) * transform, shape)
        return out[2 * half :, 2 * half :].astype(np.float32)

    return _per_channel(picture, one, rng)


def _per_channel(
    picture: Picture,
    function: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    rng: np.random.Generator,
) -> Picture:
    planes = [function(picture[..., k].astype(np.float32)) for k in range(3)]
    return _as_bytes(np.stack(planes, axis=2) + rng.normal(0.0, _SENSOR_NOISE, picture.shape))


def _as_bytes(values: NDArray[np.floating]) -> Picture:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
