"""The field of view, quality and fit: on drawn discs, and on real photographs."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter

from data_schemas.contract import Contract, Grey
from data_schemas.errors import ImageError
from pipeline.imaging.field import find_field
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import from_array, read
from pipeline.imaging.resize import View, fit, resize


def eye(height: int, width: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    """Draw a vignetted, textured orange disc on a nearly black, noisy surround."""
    noise = np.random.default_rng(3).normal(0, 2, (height, width, 3))
    rows, columns = np.mgrid[0:height, 0:width]
    away = np.hypot(rows - centre[0], columns - centre[1]) / radius
    texture = gaussian_filter(noise[..., 0], 0.006 * radius)
    texture *= 12 / texture.std()
    light = np.clip(1.1 - 0.4 * away**2, 0, None)[..., None] * [180, 90, 40] + texture[..., None]
    picture = np.where((away <= 1)[..., None], light, 4.0) + noise
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "centre", "radius"),
    [
        (400, 600, (200, 300), 180),  # whole
        (400, 600, (200, 310), 240),  # cut off at top and bottom
        (300, 300, (150, 150), 165),  # cut off at all four sides
        (900, 1400, (430, 650), 500),
        (400, 600, (190, 420), 260),  # cut off at three sides
    ],
)
def test_the_whole_circle_is_found_even_if_it_is_cut_off(height, width, centre, radius):
    field = find_field(eye(height, width, centre, radius))
    assert (field.row, field.column) == pytest.approx(centre, abs=0.012 * radius)
    assert field.radius == pytest.approx(radius, rel=0.012)


def test_a_half_dark_field_keeps_its_circle_and_says_how_much_is_visible():
    picture = eye(400, 600, (200, 300), 180)
    picture[:, :300] = 3
    field = find_field(picture)
    assert field.radius == pytest.approx(180, rel=0.03)
    assert field.visible == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_pictures_without_a_field_are_refused(seed):
    rng = np.random.default_rng(seed)
    photograph = resize(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8), 400)
    bars = np.zeros((400, 400, 3), np.uint8)
    bars[100:300, 50:350] = (200, 120, 60)
    for picture in (photograph, bars, np.full((300, 300, 3), 9, np.uint8)):
        with pytest.raises(ImageError) as caught:
            find_field(picture)
        assert caught.value.code == "BLANK"


def test_the_prepared_circle_touches_the_four_sides_and_is_black_outside(fundus):
    picture = eye(400, 600, (200, 300), 180)
    contract = fundus.model_copy(update={"accept": Contract(name="x").accept})
    prepared = prepare(from_array(picture), contract)
    pixels = prepared.pixels
    assert pixels.shape == (448, 448, 3)
    assert pixels.flags.c_contiguous
    middle = pixels[224].max(axis=1)
    assert middle[4:-4].min() > 30, "lit from side to side"
    corner = pixels[:56, :56]
    assert corner[np.add.outer(np.arange(56), np.arange(56)) < 84].max() == 0
    top, left, height, width = prepared.region
    assert height == width == pytest.approx(360, abs=6)
    assert top + height / 2 == pytest.approx(200, abs=3)
    assert left + width / 2 == pytest.approx(300, abs=3)


def test_poor_quality_has_reasons_and_does_not_raise(fundus):
    sharp = Image.fromarray(eye(600, 800, (300, 400), 280))
    contract = fundus.model_copy(update={"accept": Contract(name="x").accept})

    def answer(picture: Image.Image):
        return prepare(from_array(np.asarray(picture)), contract).quality

    assert answer(sharp).sufficient
    blurred = answer(sharp.filter(ImageFilter.GaussianBlur(12)))
    assert not blurred.sufficient
    assert blurred.reasons[0].startswith(("not sharp", "out of focus"))
    dark = answer(sharp.point(lambda value: value // 6))
    assert any(reason.startswith("too dark") for reason in dark.reasons)
    half = np.asarray(sharp).copy()
    half[320:] = 2
    assert any(r.startswith("field not visible") for r in answer(Image.fromarray(half)).reasons)


def test_grey_stored_as_colour_is_not_colour(fundus, picture_bytes):
    picture = eye(400, 600, (200, 300), 180)
    picture[...] = picture[..., :1]
    with pytest.raises(ImageError) as caught:
        prepare(read(picture_bytes(picture, "PNG"), fundus), fundus)
    assert caught.value.code == "NOT_COLOUR"


def test_an_array_of_the_contracts_size_is_not_touched():
    contract = Contract(name="same", size=28, fit="stretch", grey=Grey(window="fixed", centre=128, width=256))  # fmt: skip
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (28, 28, 3), np.uint8)
    assert (prepare(from_array(colour), contract).pixels == colour).all()
    grey = rng.integers(3, 200, (28, 28), np.uint8)
    prepared = prepare(from_array(grey), contract).pixels
    assert (prepared == grey[..., None]).all()
    assert prepared.shape == (28, 28, 3)
    one = contract.model_copy(update={"channels": 1})
    assert (prepare(from_array(grey), one).pixels[..., 0] == grey).all()


def test_pad_keeps_the_shape_and_stretch_does_not():
    picture = np.full((40, 80, 3), 200, np.uint8)
    picture[10:30, 20:60] = 90
    padded = prepare(from_array(picture), Contract(name="pad", size=80))
    assert padded.region == (-20, 0, 80, 80)
    assert (padded.pixels[:20] == 0).all()
    assert (padded.pixels[20:60] == picture).all()
    stretched = prepare(from_array(picture), Contract(name="stretch", size=80, fit="stretch"))
    assert stretched.region == (0, 0, 40, 80)
    assert stretched.pixels.min() > 50


def test_shrinking_averages():
    checks = np.indices((512, 512)).sum(axis=0) % 2 * 255
    assert np.ptp(resize(checks.astype(np.uint8), 64)) <= 2


def test_outside_the_source_is_black():
    pixels = np.full((4, 6), 7, np.uint8)
    out = fit(View(pixels, 1, 4, 6), (-1, -2, 9, 9), 9)
    assert out.shape == (9, 9)
    assert (out[1:5, 2:8] == 7).all()
    assert int(out.sum()) == 7 * 24


@pytest.mark.needs_shared
def test_real_photographs_are_sufficient_and_their_blurred_twins_are_not(
    shared_fundus: Path, fundus
):
    with (shared_fundus / "labels.csv").open(encoding="utf-8") as stream:
        names = [row["image"] for row in csv.DictReader(stream)][::30]
    radii = []
    loose = fundus.model_copy(update={"accept": Contract(name="x").accept})
    for name in names:
        data = (shared_fundus / name).read_bytes()
        prepared = prepare(read(data, fundus), fundus)
        assert prepared.quality.sufficient, prepared.quality
        assert prepared.quality.features["field"] > 0.8
        radii.append(prepared.region[2] / 2)
        blurred = Image.open(shared_fundus / name).filter(ImageFilter.GaussianBlur(6))
        assert not prepare(from_array(np.asarray(blurred)), loose).quality.sufficient
    # one camera: the field is a circle of 591 to 673 pixels in these
    assert 290 <= min(radii) <= max(radii) <= 340


@pytest.mark.needs_shared
def test_the_same_eye_at_full_size_gives_nearly_the_same_array(shared_fundus: Path, fundus):
    name = sorted((shared_fundus / "full_size").glob("*.jpg"))[1].name
    small = prepare(read((shared_fundus / "images" / name).read_bytes(), fundus), fundus)
    full = prepare(read((shared_fundus / "full_size" / name).read_bytes(), fundus), fundus)
    assert np.abs(small.pixels.astype(int) - full.pixels).mean() < 4
