"""Drawn lesions of diabetic retinopathy, by ICDR grade, each with its ground-truth mask.

Grades as in Wilkinson et al. 2003 (International Clinical Diabetic Retinopathy scale): 1 is
microaneurysms only; 2 more than that but short of severe; 3 many haemorrhages in all quadrants,
venous beading in two or intraretinal microvascular abnormalities (IRMA) in one; 4 new vessels or
preretinal haemorrhage.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from pipeline.demo.anatomy import Anatomy, Plane, wobble
from pipeline.demo.vessels import (
    OVERSAMPLING,
    Tree,
    Vessel,
    beaded,
    depth_of,
    quadrant,
)

KINDS: dict[str, int] = {
    "microaneurysms": 1,
    "haemorrhages": 2,
    "exudates": 4,
    "cotton_wool_spots": 8,
    "new_vessels": 16,
    "irma": 32,
    "venous_beading": 64,
}
"""Kind of lesion -> its bit in a truth mask."""

SEVERE_SIGNS = ("haemorrhages", "beading", "irma")
"""What makes an eye grade 3; a drawn one shows at least one of them."""


@dataclass(slots=True)
class Lesions:
    """What is drawn on one eye: layers for the renderer, and the truth."""

    eye: Anatomy
    blood: Image.Image = field(init=False)
    lipid: Image.Image = field(init=False)
    wool: Image.Image = field(init=False)
    nets: list[Vessel] = field(default_factory=list)
    truth: dict[str, Image.Image] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    extra: dict[str, list[Vessel]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = (self.eye.width * OVERSAMPLING, self.eye.height * OVERSAMPLING)
        self.blood, self.lipid, self.wool = (Image.new("L", size) for _ in range(3))

    def blot(self, kind: str, layer: Image.Image, outline: NDArray[np.float64], ink: int) -> None:
        """Fill an outline ``[n, 2]`` on a layer and on the truth of its kind."""
        flat = ((outline + 0.5) * OVERSAMPLING - 0.5).ravel().tolist()
        ImageDraw.Draw(layer).polygon(flat, fill=ink)
        ImageDraw.Draw(self._truth(kind)).polygon((outline + 0.5).ravel().tolist(), fill=255)

    def count(self, kind: str) -> None:
        """Note one more lesion of ``kind``."""
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def trace(self, kind: str, vessels: list[Vessel]) -> None:
        """Note vessels (new or abnormal ones) as truth of ``kind``."""
        self.extra.setdefault(kind, []).extend(vessels)
        self.count(kind)

    def mask(self, visible: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return the truth ``[height, width]``: the sum of the bits of :data:`KINDS`, 0 outside."""
        bits = np.zeros(self.eye.shape, dtype=np.uint8)
        for kind, image in self.truth.items():
            bits |= np.where(np.asarray(image) > 0, KINDS[kind], 0).astype(np.uint8)
        for kind, vessels in self.extra.items():
            drawn = depth_of(vessels, self.eye.shape) > 0.08
            bits |= np.where(drawn, KINDS[kind], 0).astype(np.uint8)
        bits[~visible] = 0
        return bits

    def planes(self) -> tuple[Plane, Plane, Plane]:
        """Return blood, lipid and wool as soft planes ``[height, width]``, 0..1."""
        blood, lipid, wool = (
            _soft(layer, sigma)
            for layer, sigma in ((self.blood, 0.95), (self.lipid, 0.5), (self.wool, 4.0))
        )
        return blood, lipid, wool

    def _truth(self, kind: str) -> Image.Image:
        if kind not in self.truth:
            self.truth[kind] = Image.new("L", (self.eye.width, self.eye.height))
        return self.truth[kind]


def _soft(layer: Image.Image, sigma: float) -> Plane:
    small = layer.reduce(OVERSAMPLING)
    if small.getbbox() is not None:
        small = small.filter(ImageFilter.GaussianBlur(sigma))
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def grow_lesions(
    rng: np.random.Generator, eye: Anatomy, tree: Tree, grade: int
) -> tuple[Tree, Lesions]:
    """Draw the lesions of an ICDR grade; returns the tree too, which beading changes."""
    lesions = Lesions(eye)
    if grade == 0:
        return tree, lesions
    dots = {1: (2, 8), 2: (3, 11), 3: (8, 20), 4: (4, 14)}[grade]
    for _ in range(int(rng.integers(*dots))):
        _microaneurysm(rng, lesions)
    if grade == 2:
        _moderate(rng, lesions)
    elif grade == 3:
        tree = _severe(rng, lesions, tree)
    elif grade == 4:
        _proliferative(rng, lesions, tree)
    return tree, lesions


def _moderate(rng: np.random.Generator, lesions: Lesions) -> None:
    # either sign makes the grade; most eyes show both
    which = rng.choice(3, p=(0.3, 0.14, 0.56))
    if which != 1:
        for _ in range(int(rng.integers(2, 9))):
            _haemorrhage(rng, lesions)
    if which != 0:
        for _ in range(int(rng.integers(1, 4))):
            _exudates(rng, lesions)
    if rng.uniform() < 0.25:
        _cotton_wool(rng, lesions)


def _severe(rng: np.random.Generator, lesions: Lesions, tree: Tree) -> Tree:
    sign = SEVERE_SIGNS[int(rng.integers(len(SEVERE_SIGNS)))]
    if sign == "haemorrhages":
        _over_twenty_a_quadrant(rng, lesions)
    else:
        for _ in range(int(rng.integers(12, 30))):
            _haemorrhage(rng, lesions)
    if sign == "beading":
        pair = {0, 1} if rng.uniform() < 0.6 else {0, 1, 2, 3}
        tree, changed = beaded(rng, tree, lesions.eye, pair)
        lesions.trace("venous_beading", changed)
    if sign == "irma":
        for _ in range(int(rng.integers(2, 5))):
            place = lesions.eye.spot(rng, near=0.7, far=1.25, margin=40)
            lesions.nets += (net := _net(rng, place, 22, 9))
            lesions.trace("irma", net)
    if rng.uniform() < 0.72:
        for _ in range(int(rng.integers(1, 5))):
            _exudates(rng, lesions)
    for _ in range(int(rng.integers(0, 5))):
        _cotton_wool(rng, lesions)
    return tree


def _over_twenty_a_quadrant(rng: np.random.Generator, lesions: Lesions) -> None:
    wanted = dict.fromkeys(range(4), 21)
    for _ in range(1500):
        if not any(wanted.values()):
            break
        x, y = lesions.eye.spot(rng, near=0.25, far=2.0, margin=10)
        where = quadrant(lesions.eye, x, y)
        if wanted[where] > 0:
            wanted[where] -= 1
            _haemorrhage(rng, lesions, (x, y), size=0.62)


def _proliferative(rng: np.random.Generator, lesions: Lesions, tree: Tree) -> None:
    eye = lesions.eye
    sign = rng.choice(("disc", "elsewhere", "both"), p=(0.4, 0.35, 0.25))
    if sign in ("disc", "both"):
        angle = rng.uniform(0, 2 * np.pi)
        shift = 0.55 * eye.disc_radius
        place = (eye.disc[0] + shift * np.cos(angle), eye.disc[1] + shift * np.sin(angle))
        lesions.nets += (net := _net(rng, place, 1.45 * eye.disc_radius, 42))
        lesions.trace("new_vessels", net)
    if sign in ("elsewhere", "both"):
        for _ in range(int(rng.integers(1, 3))):
            place = _beside_a_vein(rng, eye, tree)
            lesions.nets += (net := _net(rng, place, rng.uniform(30, 48), 32))
            lesions.trace("new_vessels", net)
    if rng.uniform() < 0.45:
        _preretinal(rng, lesions)
    for _ in range(int(rng.integers(2, 14))):
        _haemorrhage(rng, lesions)
    if rng.uniform() < 0.6:
        for _ in range(int(rng.integers(1, 4))):
            _exudates(rng, lesions)
    if rng.uniform() < 0.35:
        _cotton_wool(rng, lesions)


def _microaneurysm(rng: np.random.Generator, lesions: Lesions) -> None:
    place = lesions.eye.spot(rng, near=0.15, far=1.25)
    outline = _round(rng, place, rng.uniform(1.2, 2.4), 0.08)
    lesions.blot("microaneurysms", lesions.blood, outline, int(rng.integers(190, 250)))
    lesions.count("microaneurysms")


def _haemorrhage(
    rng: np.random.Generator,
    lesions: Lesions,
    place: tuple[float, float] | None = None,
    size: float = 1.0,
) -> None:
    eye = lesions.eye
    x, y = place or eye.spot(rng, near=0.2, far=1.6, margin=18)
    ink = int(rng.integers(95, 215))
    if rng.uniform() < 0.3:
        # flame: in the nerve-fibre layer, so drawn out along the fibres, which leave the disc
        angle = np.arctan2(y - eye.disc[1], x - eye.disc[0]) + rng.normal(0, 0.15)
        outline = _flame(
            rng, (x, y), size * rng.uniform(9, 19), size * rng.uniform(2.2, 4.2), angle
        )
    else:
        radius = min(size * float(np.exp(rng.normal(1.35, 0.42))), 11)
        outline = _round(rng, (x, y), radius, 0.22)
        for _ in range(int(rng.integers(0, 3)) if radius > 4 else 0):
            # large blots are several that ran together
            beside = (x + rng.normal(0, 0.9) * radius, y + rng.normal(0, 0.9) * radius)
            lesions.blot(
                "haemorrhages", lesions.blood, _round(rng, beside, 0.6 * radius, 0.22), ink
            )
    lesions.blot("haemorrhages", lesions.blood, outline, ink)
    lesions.count("haemorrhages")


def _exudates(rng: np.random.Generator, lesions: Lesions) -> None:
    eye = lesions.eye
    x, y = eye.spot(rng, near=0.28, far=0.95, margin=45)
    ring = rng.uniform() < 0.45
    reach = rng.uniform(17, 34) if ring else rng.uniform(11, 24)
    start, turn = rng.uniform(0, 2 * np.pi), rng.uniform(3.4, 6.3)
    for _ in range(int(rng.integers(22, 60))):
        if ring:
            angle, distance = start + rng.uniform(0, turn), reach * rng.normal(1, 0.13)
        else:
            angle, distance = rng.uniform(0, 2 * np.pi), reach * abs(rng.normal(0, 0.6))
        place = (x + distance * np.cos(angle), y + 0.85 * distance * np.sin(angle))
        outline = _round(rng, place, float(np.exp(rng.normal(0.5, 0.42))), 0.22)
        lesions.blot("exudates", lesions.lipid, outline, int(rng.integers(105, 256)))
    lesions.count("exudates")


def _cotton_wool(rng: np.random.Generator, lesions: Lesions) -> None:
    place = lesions.eye.spot(rng, near=0.55, far=1.15, margin=30)
    outline = _round(rng, place, rng.uniform(6, 11), 0.22)
    lesions.blot("cotton_wool_spots", lesions.wool, outline, int(rng.integers(190, 256)))
    lesions.count("cotton_wool_spots")


def _preretinal(rng: np.random.Generator, lesions: Lesions) -> None:
    # blood in front of the retina settles: a boat whose top is level
    eye = lesions.eye
    x, y = eye.spot(rng, near=0.5, far=1.1, margin=60)
    half = rng.uniform(24, 46)
    deep = half * rng.uniform(0.6, 0.95)
    angle = np.linspace(0, np.pi, 48)
    ragged = 1 + 0.10 * wobble(rng, 48, 7) + 0.05 * wobble(rng, 48, 3)
    hull = np.stack([np.cos(angle), np.sin(angle) ** 0.7 * (1 - 0.3 * np.cos(angle - 1))], axis=1)
    hull *= ragged[:, None] * (half, deep)
    deck = np.stack([np.linspace(-half, half, 24), wobble(rng, 24, 5) * 1.4], axis=1)
    outline = np.concatenate([hull, deck]) + np.array([x, y])
    lesions.blot("haemorrhages", lesions.blood, outline, int(rng.integers(225, 256)))
    lesions.count("haemorrhages")


def _beside_a_vein(rng: np.random.Generator, eye: Anatomy, tree: Tree) -> tuple[float, float]:
    veins = [v for v in tree.vessels if not v.artery and v.radii[0] > 1.3 and len(v.points) > 30]
    for _ in range(60):
        vein = veins[int(rng.integers(len(veins)))]
        x, y = vein.points[int(rng.integers(15, len(vein.points)))]
        far = np.hypot(x - eye.disc[0], y - eye.disc[1]) > 2.2 * eye.disc_radius
        if far and eye.inside(x, y, 40):
            return float(x), float(y)
    return eye.spot(rng, near=0.8, far=1.2, margin=40)


def _net(
    rng: np.random.Generator, place: tuple[float, float], reach: float, count: int
) -> list[Vessel]:
    """Draw a tangled net of fine vessels that fan out from ``place``, pixels."""
    net = []
    lean = rng.uniform(0, 2 * np.pi)
    for _ in range(count):
        length = max(10, int(reach * rng.uniform(0.8, 2.0) / 1.5))
        heading = lean + rng.normal(0, 1.25)
        angle = (
            heading
            + 1.1 * wobble(rng, length, 5.5)
            + rng.normal(0, 1.2) * np.linspace(0, 1, length)
        )
        steps = 1.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        start = np.array(place) + rng.normal(0, 0.16 * reach, 2)
        radii = np.linspace(rng.uniform(1.0, 1.7), 0.6, length)
        net.append(Vessel(start + np.cumsum(steps, axis=0), radii, artery=True))
    return net


def _round(
    rng: np.random.Generator, place: tuple[float, float], radius: float, rough: float
) -> NDArray[np.float64]:
    count = 10 if radius < 3 else 22
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    waves = sum(
        rng.normal(0, rough / k) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 4)
    )
    distance = np.maximum(radius * (1 + waves), 0.35 * radius)
    return np.stack(
        [place[0] + distance * np.cos(angle), place[1] + distance * np.sin(angle)], axis=1
    )


def _flame(
    rng: np.random.Generator, place: tuple[float, float], half: float, thick: float, angle: float
) -> NDArray[np.float64]:
    along = np.concatenate([np.linspace(-1, 1, 16), np.linspace(1, -1, 16)])
    side = np.repeat((1.0, -1.0), 16)
    # feathered ends: the edge frays more the farther it lies from the middle
    across = side * thick * (1 - along**2) ** 0.75 + rng.normal(0, 0.22 * thick, 32) * (
        0.4 + abs(along)
    )
    x = along * half
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([place[0] + x * cos - across * sin, place[1] + x * sin + across * cos], axis=1)
