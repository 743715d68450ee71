"""The exposed field of a radiograph and the breast of a mammogram: drawn ones, and the real files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_schemas import settings
from data_schemas.contract import Contract
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import from_array, read
from pipeline.imaging.regions import breast_part, exposed_part, find, largest_area

ROOT = Path(__file__).parents[2]


def contract(name: str) -> Contract:
    return settings.resolve(Contract, [settings.from_file(ROOT / f"configs/contracts/{name}.yaml")])


def film(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """Draw a chest-like picture inside a field, white where the shutter was closed."""
    rows, columns = np.mgrid[0:200, 0:240]
    inside = 60 + 50 * np.sin(rows / 17) + 40 * np.cos(columns / 11)
    levels = np.full((200, 240), 250.0)
    levels[top:bottom, left:right] = inside[top:bottom, left:right]
    return levels.astype(np.float32)


@pytest.mark.parametrize(
    "field",
    [(0, 200, 0, 240), (0, 200, 40, 200), (30, 170, 0, 240), (25, 180, 50, 190), (0, 200, 90, 240)],
)
def test_a_collimated_field_is_found(field):
    top, bottom, left, right = field
    found = exposed_part(film(*field))
    assert np.abs(np.array(found) - (top, left, bottom - top, right - left)).max() <= 2
    # nothing of the field is cut off
    assert found[0] <= top
    assert found[1] <= left
    assert found[0] + found[2] >= bottom
    assert found[1] + found[3] >= right


def test_a_black_frame_is_left_out_and_anatomy_never():
    levels = film(0, 200, 0, 240)
    levels[:, :30] = 0
    assert exposed_part(levels)[1] == pytest.approx(30, abs=2)
    faint = levels.copy()
    faint[80:120, 10:30] = 12  # something can be seen there
    assert exposed_part(faint)[1] <= 10


def test_what_is_not_sure_is_kept():
    noise = np.random.default_rng(0).uniform(0, 255, (120, 150)).astype(np.float32)
    assert exposed_part(noise) == (0, 0, 120, 150)
    # dense and even to the rim, but no straight edge: the abdomen, not a shutter
    slope = np.tile(np.linspace(250, 40, 150, dtype=np.float32), (120, 1))
    assert exposed_part(slope) == (0, 0, 120, 150)
    assert exposed_part(np.full((60, 60), 250, np.float32)) == (0, 0, 60, 60)


def breast(side: str) -> np.ndarray:
    rows, columns = np.mgrid[0:200, 0:160]
    body = ((rows - 100) / 80) ** 2 + (columns / 90) ** 2 < 1
    levels = np.where(body, 120 + 40 * np.sin(rows / 9), 2).astype(np.float32)
    levels[10:22, 130:150] = 255  # a view marker
    return levels if side == "left" else levels[:, ::-1].copy()


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_breast_is_found_and_the_marker_is_not(side):
    (top, left, height, width), found = breast_part(breast(side))
    assert found == side
    assert 10 <= top <= 22
    assert 155 <= height <= 172
    assert 85 <= width <= 98
    assert left == (0 if side == "left" else 160 - width)


def test_a_side_that_contradicts_the_header_is_said():
    picture = from_array(breast("left").astype(np.uint8))
    assert find(replace(picture, laterality="L"), "breast")[1] == ()
    (said,) = find(replace(picture, laterality="R"), "breast")[1]
    assert said == "laterality R, but the chest wall is on the left"
    warned = prepare(replace(picture, laterality="R"), Contract(name="b", region="breast"))
    assert said in warned.warnings


def test_the_largest_area_is_one_area():
    lit = np.zeros((9, 12), bool)
    lit[1:4, 1:4] = lit[5:8, 2:11] = lit[4, 9] = True
    lit[0, 9] = lit[3, 6] = True
    expected = np.zeros_like(lit)
    expected[5:8, 2:11] = expected[4, 9] = True
    assert (largest_area(lit) == expected).all()
    assert not largest_area(np.zeros((3, 3), bool)).any()


def test_a_window_of_percentiles_ignores_a_speck():
    levels = np.linspace(0, 1000, 10000).reshape(100, 100).astype(np.uint16).astype(np.uint8)
    recipe = Contract.model_validate({"name": "p", "grey": {"window": "percentile"}, "size": 64})
    plain = prepare(from_array(levels), recipe).pixels
    specked = levels.copy()
    specked[0, 0] = 255
    assert (
        np.abs(prepare(from_array(specked), recipe).pixels[8:].astype(int) - plain[8:]).max() <= 2
    )


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    ("name", "left", "right"),
    [("4d3b74695811", (425, 465), (1230, 1340)), ("65c2f33d3596", (120, 180), (1700, 1760)), ("744d01372fdd", (0, 0), (1841, 1841))],
)  # fmt: skip
def test_the_fields_of_real_radiographs(name, left, right, shared_dicom):
    """Edges were read off the pictures: a leg between two shutters, a hip with one, a chest with none."""
    instance = read((shared_dicom / f"{name}.dcm").read_bytes(), contract("radiograph"))
    _, start, _, width = find(instance, "collimation")[0]
    assert left[0] <= start <= left[1]
    assert right[0] <= start + width <= right[1]


@pytest.mark.needs_shared
def test_a_real_mammogram_loses_its_label(shared_dicom):
    wanted = contract("mammogram")
    instance = read((shared_dicom / "5d38cc99dbd0.dcm").read_bytes(), wanted)
    assert (instance.laterality, instance.view) == ("L", "CC")
    (top, left, height, width), warnings = find(instance, "breast")
    assert 60 <= top <= 220
    assert top + height == instance.rows
    assert (left, warnings) == (0, ())
    assert width == instance.columns
    assert prepare(instance, wanted).pixels.shape == (1024, 1024, 1)
