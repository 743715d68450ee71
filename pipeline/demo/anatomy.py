"""Where things lie in one drawn eye: the frame, the field of view, disc, fovea, and smooth noise."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_schemas.terms import Laterality

Plane = NDArray[np.float32]

FRAMES: tuple[tuple[int, int, float], ...] = ((744, 496, 0.587), (704, 512, 0.553))
"""The drawn cameras: width and height in pixels, radius of the field as a share of the height."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Geometry of one photograph, in pixels of its frame.

    ``temporal`` is +1 where the temple lies to the right (a left eye), -1 where it lies to the left.
    """

    width: int
    height: int
    centre: tuple[float, float]
    radius: float
    disc: tuple[float, float]
    disc_radius: float
    fovea: tuple[float, float]
    temporal: int

    @property
    def reach(self) -> float:
        """Distance from the disc's centre to the fovea, pixels."""
        return float(np.hypot(self.fovea[0] - self.disc[0], self.fovea[1] - self.disc[1]))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def inside(self, x: Plane, y: Plane, margin: float = 0.0) -> NDArray[np.bool_]:
        """Tell which points lie in the visible field, at least ``margin`` pixels from its edge."""
        circle = np.hypot(x - self.centre[0], y - self.centre[1]) < self.radius - margin
        rows = (y > margin) & (y < self.height - 1 - margin)
        answer: NDArray[np.bool_] = circle & rows
        return answer

    def spot(
        self, rng: np.random.Generator, *, near: float, far: float, margin: float = 14.0
    ) -> tuple[float, float]:
        """Draw a place on the retina, off disc and fovea.

        Parameters
        ----------
        near, far
            Bounds of the distance from the fovea, as shares of :attr:`reach`.
        margin
            Distance from the edge of the field, pixels.
        """
        x, y = self.fovea
        for _ in range(200):
            angle = rng.uniform(0, 2 * np.pi)
            distance = self.reach * np.sqrt(rng.uniform(near**2, far**2))
            x = self.fovea[0] + distance * np.cos(angle)
            y = self.fovea[1] + distance * np.sin(angle)
            off_disc = np.hypot(x - self.disc[0], y - self.disc[1]) > 1.45 * self.disc_radius
            if off_disc and self.inside(np.float32(x), np.float32(y), margin):  # type: ignore[arg-type]
                break
        return float(x), float(y)


def lay_out(rng: np.random.Generator, camera: int, laterality: Laterality) -> Anatomy:
    """Place disc and fovea of one eye in the frame of ``camera`` (an index into :data:`FRAMES`).

    Proportions of a 45 degree photograph: the disc is a ninth of the field's diameter, the fovea
    lies 2.5 disc diameters on its temporal side and a little lower.
    """
    width, height, share = FRAMES[camera]
    radius = share * height * rng.uniform(0.985, 1.015)
    centre = (width / 2 + rng.uniform(-12, 12), height / 2 + rng.uniform(-4, 4))
    temporal = 1 if laterality == "L" else -1
    reach = 0.76 * radius * rng.uniform(0.94, 1.06)
    disc = (
        centre[0] - temporal * reach * rng.uniform(0.52, 0.86),
        centre[1] + radius * rng.normal(-0.04, 0.07),
    )
    drop = rng.uniform(0.04, 0.16)
    fovea = (disc[0] + temporal * reach * np.sqrt(1 - drop**2), disc[1] + reach * drop)
    return Anatomy(
        width=width,
        height=height,
        centre=centre,
        radius=float(radius),
        disc=(float(disc[0]), float(disc[1])),
        disc_radius=float(0.12 * radius * rng.uniform(0.9, 1.12)),
        fovea=(float(fovea[0]), float(fovea[1])),
        temporal=temporal,
    )


@lru_cache(maxsize=8)
def grid(height: int, width: int) -> tuple[Plane, Plane]:
    """Return the x and y coordinate of every pixel, each ``[height, width]``."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return x, y


def cloud(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> Plane:
    """Return smooth noise ``[height, width]`` of mean 0, deviation about 1, ``cell`` pixels a bump."""
    rows, columns = (int(side / cell) + 4 for side in shape)
    coarse = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    # a window that starts at a random fraction of a cell: bumps don't line up with the frame
    left, top = rng.uniform(0, 1, 2)
    box = (left, top, left + shape[1] / cell, top + shape[0] / cell)
    smooth = coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box)
    return np.asarray(smooth, dtype=np.float32) * np.float32(1.35)


def wobble(rng: np.random.Generator, count: int, wave: float) -> NDArray[np.float64]:
    """Return ``count`` steps of smooth one-dimensional noise, a bump every ``wave`` steps."""
    knots = rng.standard_normal(int(count / wave) + 3)
    line = np.interp(np.arange(count) / wave + rng.uniform(0, 1), np.arange(knots.size), knots)
    width = max(3, int(wave / 2) | 1)
    padded = np.pad(line, width // 2, mode="edge")
    smooth: NDArray[np.float64] = np.convolve(padded, np.full(width, 1 / width), mode="valid")
    return smooth
