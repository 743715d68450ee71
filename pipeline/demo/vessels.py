"""The drawn vessel tree: arteries and veins that leave the disc, arch around the macula and branch."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.demo.anatomy import Anatomy, Plane, wobble

STEP = 3.0
"""Pixels between two points of a vessel's middle line."""
OVERSAMPLING = 2
"""Canvas pixels per image pixel along each side, for smooth edges."""

Path = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Vessel:
    """One vessel: its middle line ``[n, 2]`` (x, y) and its radius ``[n]``, in pixels."""

    points: Path
    radii: NDArray[np.float64]
    artery: bool


@dataclass(frozen=True, slots=True)
class Tree:
    """All vessels of one eye."""

    vessels: tuple[Vessel, ...]


class _Grower:
    """Grows one kind of vessel; remembers where it has grown, so that its vessels don't cross."""

    CELL = 5.0

    def __init__(self, rng: np.random.Generator, eye: Anatomy, *, artery: bool) -> None:
        self.rng, self.eye, self.artery = rng, eye, artery
        self.vessels: list[Vessel] = []
        rows, columns = (int(side / self.CELL) + 2 for side in eye.shape)
        self._taken = np.zeros((rows, columns), dtype=bool)

    def main(self, points: Path, radius: float) -> None:
        """Take a trunk and let it branch."""
        self._add(points, radius, depth=0, free=6)

    def _add(self, points: Path, radius: float, *, depth: int, free: int) -> None:
        points = self._clipped(points, free)
        if len(points) < 6:
            return
        along = np.linspace(0, 1, len(points))
        radii = np.maximum(radius * (1 - 0.6 * along**0.9), 0.45)
        self.vessels.append(Vessel(points, radii, self.artery))
        columns, rows = (points / self.CELL).astype(int).T
        self._taken[rows, columns] = True
        if depth < 3 and radius > 0.6:
            self._branch(points, radii, depth)

    def _clipped(self, points: Path, free: int) -> Path:
        eye = self.eye
        x, y = points.T
        good = eye.inside(x.astype(np.float32), y.astype(np.float32), -6)
        good &= (y >= 0) & (y <= eye.height - 1) & (x >= 0) & (x <= eye.width - 1)
        good &= np.hypot(x - eye.fovea[0], y - eye.fovea[1]) > 0.13 * eye.reach
        end = len(points) if good.all() else int(np.argmin(good))
        columns, rows = (points[:end] / self.CELL).astype(int).T
        met = self._taken[rows, columns]
        met[:free] = False
        if met.any():
            end = int(np.argmax(met))
        return points[:end]

    def _branch(self, points: Path, radii: NDArray[np.float64], depth: int) -> None:
        rng = self.rng
        spacing = (24, 19, 15)[depth]
        index = int(rng.uniform(0.35, 1.2) * spacing) + (6 if depth == 0 else 0)
        side = rng.choice((-1, 1))
        while index < len(points) - 4:
            dx, dy = points[index + 2] - points[index - 2]
            heading = np.arctan2(dy, dx) + side * rng.uniform(0.45, 0.95)
            radius = radii[index] * rng.uniform(0.5, 0.85)
            length = rng.uniform(22, 48) * (0.7 + 0.45 * radius)
            path = self._wander(points[index], heading, int(length), -side * rng.uniform(0.0, 0.5))
            self._add(path, radius, depth=depth + 1, free=5)
            side = -side if rng.uniform() < 0.75 else side
            index += int(rng.uniform(0.5, 1.5) * spacing)

    def _wander(self, start: Path, heading: float, count: int, bend: float) -> Path:
        rng = self.rng
        angle = heading + bend * np.linspace(0, 1, count)
        angle += rng.uniform(0.12, 0.34) * wobble(rng, count, 6.5)
        steps = STEP * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        steps[0] = 0
        return start + np.cumsum(steps, axis=0)

    def arcade(self, up: int, spread: float, radius: float) -> None:
        """Grow a temporal trunk along the sideways parabola x = k y^2 about the macula."""
        rng, eye = self.rng, self.eye
        # at the fovea's column the trunk passes `spread` reaches above or below it
        power = rng.uniform(1.7, 2.2)
        y = np.linspace(0, 1.9, 420)
        x = (y / spread) ** power
        curve = np.stack([x * eye.temporal, -up * y], axis=1) * eye.reach
        length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(curve, axis=0).T))])
        even = np.arange(0, length[-1], STEP)
        line = np.stack([np.interp(even, length, curve[:, axis]) for axis in (0, 1)], axis=1)
        fade = np.minimum(1, even / (0.5 * eye.reach))[:, None]
        drift = [
            wobble(rng, len(even), 48) * 13
            + wobble(rng, len(even), 17) * 6
            + wobble(rng, len(even), 7) * 1.9
            for _ in "xy"
        ]
        line += np.stack(drift, axis=1) * fade
        self.main(self._origin() + line, radius)

    def nasal(self, heading: float, radius: float, count: int) -> None:
        """Grow a trunk from the disc at ``heading``: 0 points to the nose, pi / 2 up."""
        start = self._origin()
        toward = np.arctan2(-np.sin(heading), -self.eye.temporal * np.cos(heading))
        bend = self.rng.uniform(-0.35, 0.35)
        self.main(self._wander(start, float(toward), count, bend), radius)

    def _origin(self) -> Path:
        eye, rng = self.eye, self.rng
        shift = np.array([-eye.temporal * 0.2 * eye.disc_radius, 0.0])
        return np.array(eye.disc) + shift + rng.normal(0, (0.2, 0.12)) * eye.disc_radius


def grow(rng: np.random.Generator, eye: Anatomy) -> Tree:
    """Grow the arteries and veins of one eye."""
    vessels: list[Vessel] = []
    calibre = eye.radius / 290 * rng.uniform(0.88, 1.12)
    wide = {up: rng.uniform(0.58, 0.88) for up in (-1, 1)}
    for artery in (False, True):
        grower = _Grower(rng, eye, artery=artery)
        radius = (1.75 if artery else 2.6) * calibre
        for up in (-1, 1):
            # the vein runs inside the artery at one arcade and outside it at the other
            apart = rng.uniform(0.1, 0.26) if artery == (up > 0) else -0.05
            spread = wide[up] * (1 + apart) * rng.uniform(0.95, 1.05)
            grower.arcade(up, spread, radius * rng.uniform(0.9, 1.08))
            if rng.uniform() < 0.6:
                grower.arcade(up, spread * rng.uniform(1.35, 1.9), radius * rng.uniform(0.55, 0.75))
            grower.nasal(up * rng.uniform(0.75, 1.25), radius * rng.uniform(0.68, 0.9), 90)
            if rng.uniform() < 0.75:
                grower.nasal(up * rng.uniform(0.1, 0.6), radius * rng.uniform(0.3, 0.5), 55)
            if rng.uniform() < 0.7:
                # fine vessels that run from the disc straight towards the macula
                grower.nasal(np.pi + up * rng.uniform(0.1, 0.55), radius * 0.3, 36)
        vessels += grower.vessels
    return Tree(tuple(vessels))


def beaded(
    rng: np.random.Generator, tree: Tree, eye: Anatomy, quadrants: set[int]
) -> tuple[Tree, list[Vessel]]:
    """Swell and narrow the large veins of ``quadrants`` (0..3, see :func:`quadrant`) like beads."""
    vessels, changed = [], []
    for vessel in tree.vessels:
        middle = vessel.points[len(vessel.points) // 2]
        thick = not vessel.artery and vessel.radii[0] > 1.7 and len(vessel.points) > 25
        if thick and quadrant(eye, middle[0], middle[1]) in quadrants:
            wave = np.sin(np.arange(len(vessel.points)) * STEP / rng.uniform(2.6, 3.4))
            start = np.arange(len(vessel.points)) > 14
            radii = vessel.radii * np.where(start, 1.2 + 0.5 * wave, 1.0)
            changed.append(Vessel(vessel.points[14:], radii[14:], artery=False))
            vessels.append(Vessel(vessel.points, radii, artery=False))
        else:
            vessels.append(vessel)
    return Tree(tuple(vessels)), changed


def quadrant(eye: Anatomy, x: float, y: float) -> int:
    """Return the quadrant about the disc: 0 upper temporal, 1 lower temporal, 2, 3 nasal."""
    temporal = (x - eye.disc[0]) * eye.temporal > 0
    return (0 if temporal else 2) + int(y > eye.disc[1])


def depth_of(vessels: tuple[Vessel, ...] | list[Vessel], shape: tuple[int, int]) -> Plane:
    """Draw vessels as optical depth ``[height, width]``, 0..1: thick ones are deeper."""
    canvas = Image.new("L", (shape[1] * OVERSAMPLING, shape[0] * OVERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    for vessel in sorted(vessels, key=lambda one: float(one.radii[0])):
        for part, radius in _pieces(vessel):
            ink = int(255 * np.clip(0.26 + 0.24 * radius, 0, 0.9))
            pen.polygon(part, fill=ink)
    return reduced(canvas)


def reflex_of(vessels: tuple[Vessel, ...] | list[Vessel], shape: tuple[int, int]) -> Plane:
    """Draw the light streak along the middle of thick vessels, 0..1."""
    canvas = Image.new("L", (shape[1] * OVERSAMPLING, shape[0] * OVERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    for vessel in vessels:
        if vessel.radii[0] > 1.5:
            pen.polygon(
                _strip(vessel.points, vessel.radii * 0.26), fill=255 if vessel.artery else 90
            )
    return reduced(canvas)


def reduced(canvas: Image.Image) -> Plane:
    """Bring an oversampled canvas down to image pixels, 0..1."""
    small = canvas.reduce(OVERSAMPLING)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def _pieces(vessel: Vessel) -> list[tuple[list[float], float]]:
    # ink follows the radius: cut a long vessel so that its far end is paler
    count = max(1, len(vessel.points) // 18)
    edges = np.linspace(0, len(vessel.points) - 1, count + 1).astype(int)
    return [
        (_strip(vessel.points[a : b + 1], vessel.radii[a : b + 1]), float(vessel.radii[a:b].mean()))
        for a, b in pairwise(edges)
    ]


def _strip(points: Path, radii: NDArray[np.float64]) -> list[float]:
    along = np.gradient(points, axis=0)
    along /= np.maximum(np.hypot(*along.T), 1e-6)[:, None]
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1) * radii[:, None]
    outline = np.concatenate([points + normal, (points - normal)[::-1]])
    flat: list[float] = ((outline + 0.5) * OVERSAMPLING - 0.5).ravel().tolist()
    return flat
