"""Draws one phantom colour fundus photograph: retina, disc, vessels, lesions, then the camera.

Nothing here is a real eye. Light is modelled just far enough to look right: tissue has a colour,
blood absorbs (Beer-Lambert: colour x exp(-depth x absorption)), deposits cover, the camera adds
fall-off, reflexes, blur and noise.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from data_schemas.terms import Laterality
from pipeline.demo.anatomy import Anatomy, Plane, cloud, grid, lay_out, wobble
from pipeline.demo.lesions import grow_lesions
from pipeline.demo.vessels import Tree, Vessel, depth_of, grow, reflex_of

Fault = Literal["none", "blur", "dark", "half_field"]
"""What makes a photograph ungradable."""

TISSUES: NDArray[np.float32] = np.array(
    [
        [196, 98, 38],  # orange
        [128, 46, 18],  # dark, red
        [192, 106, 84],  # pink
        [210, 134, 54],  # yellow
        [148, 96, 52],  # brown
    ],
    dtype=np.float32,
)
"""Colours of the retina between which patients lie, sRGB."""

VEIN = (0.42, 1.22, 0.85)
ARTERY = (0.16, 0.92, 0.75)
BLOOD = (0.56, 1.75, 1.25)
NET = (0.12, 1.1, 0.8)
"""Absorption of red, green and blue at full optical depth."""


@dataclass(frozen=True, slots=True)
class Person:
    """What both eyes of one patient share."""

    tissue: tuple[float, float, float]
    tessellation: float
    sheen: float
    cup: float
    camera: int
    softness: float


@dataclass(frozen=True, slots=True)
class Drawing:
    """One photograph and its truth."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    counts: dict[str, int]
    anatomy: Anatomy


def draw_person(rng: np.random.Generator) -> Person:
    """Draw a patient's colouring and camera."""
    weights = rng.dirichlet((0.8, 0.6, 0.45, 0.5, 0.5)).astype(np.float32)
    tissue = weights @ TISSUES * rng.uniform(0.9, 1.04)
    return Person(
        tissue=(float(tissue[0]), float(tissue[1]), float(tissue[2])),
        tessellation=float(rng.uniform(0, 1) ** 2),
        sheen=float(rng.uniform(0.2, 1.0)),
        cup=float(rng.uniform(0.3, 0.56)),
        camera=int(rng.integers(2)),
        softness=float(0.7 + 0.9 * rng.uniform() ** 3),
    )


def draw_eye(
    rng: np.random.Generator,
    person: Person,
    laterality: Laterality,
    grade: int,
    fault: Fault = "none",
) -> Drawing:
    """Draw one eye: ``pixels`` uint8 ``[H, W, 3]``, ``mask`` uint8 ``[H, W]`` with the bits of KINDS."""
    eye = lay_out(rng, person.camera, laterality)
    tree, lesions = grow_lesions(rng, eye, grow(rng, eye), grade)
    picture = _retina(rng, eye, person)
    _disc(rng, picture, eye, person)
    blood, lipid, wool = lesions.planes()
    _vessels(picture, eye, tree, lesions.nets, blood)
    _deposits(rng, picture, eye, (lipid, wool), grade)
    pixels, visible = _camera(rng, picture, eye, person, fault)
    return Drawing(pixels, lesions.mask(visible), lesions.counts, eye)


def _polar(eye: Anatomy, point: tuple[float, float]) -> tuple[Plane, Plane]:
    x, y = grid(*eye.shape)
    dx, dy = x - np.float32(point[0]), y - np.float32(point[1])
    return np.hypot(dx, dy), np.arctan2(dy, dx * np.float32(eye.temporal))


def _bump(distance: Plane, width: float) -> Plane:
    answer: Plane = np.exp(-((distance / np.float32(width)) ** 2))
    return answer


def _retina(rng: np.random.Generator, eye: Anatomy, person: Person) -> list[Plane]:
    """Return the three colour planes of retina and choroid."""
    shape = eye.shape
    from_fovea, _ = _polar(eye, eye.fovea)
    from_disc, angle = _polar(eye, eye.disc)
    patchy = 1 + 0.035 * cloud(rng, shape, 130) + 0.022 * cloud(rng, shape, 45)
    patchy += 0.012 * cloud(rng, shape, 9) + 0.014 * cloud(rng, shape, 2.6)
    # choroidal vessels shine through as a web of paler, redder bands; least so at the macula
    web = _bump(cloud(rng, shape, 25) + 0.35 * cloud(rng, shape, 11), 0.42)
    web *= person.tessellation * (1 - 0.85 * _bump(from_fovea, 0.6 * eye.reach))
    # sheen of the nerve fibres: streaks along the rays from the disc, strongest up and down
    ring = np.resize(wobble(rng, 1024, 5), 1024)
    streaks = np.interp(angle, np.linspace(-np.pi, np.pi, 1024), ring).astype(np.float32)
    sheen = _bump(from_disc - 1.6 * eye.disc_radius, 0.62 * eye.reach) * np.sin(angle) ** 2
    sheen *= person.sheen * (0.10 + 0.055 * streaks)
    glow = 0.08 * _bump(from_disc, 0.55 * eye.reach)
    dark = rng.uniform(0.10, 0.24) * _bump(from_fovea, rng.uniform(0.3, 0.42) * eye.reach)
    pit = rng.uniform(0.2, 0.4) * _bump(from_fovea, rng.uniform(0.075, 0.115) * eye.reach)
    planes = []
    for index, tone in enumerate(person.tissue):
        shade = patchy * (1 + (glow + sheen) * (0.7, 1.15, 1.3)[index])
        shade *= 1 + web * (0.05, -0.16, -0.1)[index]
        shade *= np.exp(-(dark + pit) * (0.95, 1.2, 1.0)[index])
        planes.append(np.float32(tone) * shade)
    if rng.uniform() < 0.35:
        light = 26 * _bump(from_fovea, 2.2)
        planes = [plane + light for plane in planes]
    return planes


def _disc(rng: np.random.Generator, picture: list[Plane], eye: Anatomy, person: Person) -> None:
    """Lay the optic disc with its cup over the retina."""
    # all of it happens within two radii
    near = tuple(
        slice(max(int(middle - 2 * eye.disc_radius), 0), int(middle + 2 * eye.disc_radius))
        for middle in (eye.disc[1], eye.disc[0])
    )
    x, y = (plane[near] for plane in grid(*eye.shape))
    tilt = rng.normal(0, 0.12)
    dx = (x - eye.disc[0]) * eye.temporal / (0.93 * eye.disc_radius)
    dy = (y - eye.disc[1]) / (1.05 * eye.disc_radius)
    dx, dy = dx + tilt * dy, dy - tilt * dx
    ragged = 1 + 0.03 * cloud(rng, x.shape, 22)
    distance = np.hypot(dx, dy) * ragged
    # the nasal margin is less sharp than the temporal one
    edge = 0.055 + 0.05 * np.clip(-dx, 0, 1)
    disc = 1 / (1 + np.exp(np.clip((distance - 1) / edge, -30, 30)))
    cup = np.hypot(dx - 0.1, dy) / person.cup
    cup = 1 / (1 + np.exp(np.clip((cup - 1) / 0.16, -30, 30)))
    crescent = _bump(distance - 1.12, 0.13) * np.clip(dx, 0, 1) * rng.uniform(0, 0.55)
    pink = rng.uniform(0.25, 0.6)
    bright = rng.uniform(0.86, 1.02)
    for index, plane in enumerate(picture):
        rim = np.float32((247, 178 + 8 * (1 - pink), 96 + 26 * pink)[index] * bright)
        rim = 0.8 * rim + 0.2 * person.tissue[index]
        pale = np.float32((255, 230, 160)[index] * bright)
        tone = rim + (pale - rim) * 0.85 * cup - (8, 26, 14)[index] * np.clip(-dx, 0, 1)
        part = plane[near]
        _cover(part, crescent, (232, 172, 104)[index])
        _cover(part, disc, tone)


def _vessels(
    picture: list[Plane], eye: Anatomy, tree: Tree, new: list[Vessel], blood: Plane
) -> None:
    """Darken by blood, in vessels and out of them."""
    veins = depth_of([v for v in tree.vessels if not v.artery], eye.shape)
    arteries = depth_of([v for v in tree.vessels if v.artery], eye.shape)
    streak = reflex_of(tree.vessels, eye.shape)
    nets = depth_of(new, eye.shape) if new else None
    for index, plane in enumerate(picture):
        depth = VEIN[index] * veins * (1 - 0.6 * arteries) + ARTERY[index] * arteries
        depth += BLOOD[index] * blood
        if nets is not None:
            depth += NET[index] * nets
        np.multiply(plane, np.exp(-depth), out=plane)
        np.add(plane, streak * (34, 20, 10)[index] * (1 - blood), out=plane)


def _deposits(
    rng: np.random.Generator,
    picture: list[Plane],
    eye: Anatomy,
    pale: tuple[Plane, Plane],
    grade: int,
) -> None:
    """Cover with what lies in or on the retina and is pale: exudates, cotton wool, drusen."""
    lipid, wool = pale
    drusen = _drusen(rng, eye) if grade < 2 and rng.uniform() < 0.12 else None
    for index, plane in enumerate(picture):
        if lipid.any():
            _cover(plane, 0.85 * lipid, (252, 226, 124)[index])
        if wool.any():
            _cover(plane, 0.72 * wool, (236, 218, 172)[index])
        if drusen is not None:
            np.multiply(plane, 1 + drusen * (0.10, 0.24, 0.12)[index], out=plane)


def _cover(plane: Plane, share: Plane, tone: Plane | float) -> None:
    plane += share * (tone - plane)


def _drusen(rng: np.random.Generator, eye: Anatomy) -> Plane:
    x, y = grid(*eye.shape)
    plane = np.zeros(eye.shape, dtype=np.float32)
    for _ in range(int(rng.integers(5, 16))):
        px, py = eye.spot(rng, near=0.08, far=0.5)
        top, left = max(int(py) - 12, 0), max(int(px) - 12, 0)
        part = np.s_[top : top + 25, left : left + 25]
        plane[part] += _bump(np.hypot(x[part] - px, y[part] - py), rng.uniform(2, 4.5))
    return np.minimum(plane, 1)


def _camera(
    rng: np.random.Generator, picture: list[Plane], eye: Anatomy, person: Person, fault: Fault
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Photograph the retina: light, reflexes, field mask, blur, noise. Returns uint8 and the field."""
    x, y = grid(*eye.shape)
    u, v = (x - eye.centre[0]) / eye.radius, (y - eye.centre[1]) / eye.radius
    rho = np.hypot(u, v)
    side = (rng.normal(0, 0.075), rng.normal(0, 0.075))
    light = 0.98 - rng.uniform(0.16, 0.48) * rho**2 + side[0] * u + side[1] * v
    light *= float(np.exp(rng.normal(0, 0.14)))
    field = np.clip((1 - rho) * eye.radius / 1.6 + 0.5, 0, 1)
    veil = _veil(rng, eye, u, v, rho)
    if fault == "dark":
        light *= rng.uniform(0.1, 0.16)
        veil *= 0.1
    if fault == "half_field":
        field, light = _half(rng, field, light, u, v)
    sigma = rng.uniform(5.5, 8.5) if fault == "blur" else person.softness
    planes = []
    for index, plane in enumerate(picture):
        lit = plane * light
        lit += veil * ((214, 208, 206)[index] - lit)
        planes.append(np.clip(lit * field, 0, 255).astype(np.uint8))
    flat = Image.fromarray(np.stack(planes, axis=2))
    soft = np.asarray(flat.filter(ImageFilter.GaussianBlur(sigma)))
    floor = rng.uniform(0.5, 3)
    strength = rng.uniform(0.9, 2.2) * (0.25 + 0.75 * field)
    grey = strength * rng.standard_normal(eye.shape, dtype=np.float32) * 0.85 + floor
    colour = strength * rng.standard_normal(eye.shape, dtype=np.float32) * 0.6
    pixels = np.empty((*eye.shape, 3), dtype=np.uint8)
    for index, share in enumerate((0.7, -0.3, -1.0)):
        pixels[..., index] = np.clip(soft[..., index] + grey + share * colour, 0, 255)
    return pixels, (rho < 1) & (field > 0.5)


def _veil(rng: np.random.Generator, eye: Anatomy, u: Plane, v: Plane, rho: Plane) -> Plane:
    """Return stray light as a share of white: the lens's reflex, a bright rim, haze, dust."""
    veil = np.full(eye.shape, 0.16 * rng.uniform() ** 3, dtype=np.float32)
    if rng.uniform() < 0.5:
        # the reflex of the lens: a pale smear between disc and fovea
        x, y = rng.normal(0, 0.10), rng.normal(0, 0.09)
        turn = rng.uniform(0, np.pi)
        along = (u - x) * math.cos(turn) + (v - y) * math.sin(turn)
        across = (v - y) * math.cos(turn) - (u - x) * math.sin(turn)
        long, wide = rng.uniform(0.10, 0.2), rng.uniform(0.03, 0.085)
        smear = np.exp(-((along / long) ** 2) - (across / wide) ** 2)
        veil += rng.uniform(0.1, 0.42) * smear * (1 + 0.2 * cloud(rng, eye.shape, 14))
    if rng.uniform() < 0.3:
        angle = rng.uniform(0, 2 * np.pi)
        facing = np.clip(u * math.cos(angle) + v * math.sin(angle), 0, 1) ** 3
        veil += rng.uniform(0.15, 0.5) * facing * _bump(1 - rho, rng.uniform(0.04, 0.13))
    if rng.uniform() < 0.12:
        x, y = rng.uniform(-0.7, 0.7), rng.uniform(-0.7, 0.7)
        veil += rng.uniform(0.05, 0.14) * _bump(np.hypot(u - x, v - y), rng.uniform(0.06, 0.2))
    return np.clip(veil, 0, 0.9)


def _half(
    rng: np.random.Generator, field: Plane, light: Plane, u: Plane, v: Plane
) -> tuple[Plane, Plane]:
    # a lid or a small pupil: the rest of the field stays black
    angle = rng.uniform(0, 2 * np.pi)
    edge = u * math.cos(angle) + v * math.sin(angle) + 0.12 * np.sin(3 * (v * math.cos(angle)))
    gone = 1 / (1 + np.exp(np.clip((edge - rng.uniform(-0.05, 0.15)) / 0.035, -30, 30)))
    return field * (1 - gone), light * (1 - 0.8 * gone)
