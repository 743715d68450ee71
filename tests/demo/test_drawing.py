"""Phantom photographs: the same every time, lesions as the grade says, the truth where it belongs."""

import numpy as np
import pytest

from pipeline.demo.anatomy import cloud
from pipeline.demo.draw import Drawing, draw_eye, draw_person
from pipeline.demo.lesions import KINDS

GRADES = (0, 1, 2, 3, 4)


def drawing(seed, grade, laterality="R", fault="none") -> Drawing:
    rng = np.random.default_rng(seed)
    return draw_eye(rng, draw_person(rng), laterality, grade, fault)


@pytest.fixture(scope="module")
def gallery():
    return {(seed, grade): drawing(seed, grade) for seed in range(4) for grade in GRADES}


def test_the_same_seed_draws_the_same_eye(gallery):
    again = drawing(2, 3)
    assert np.array_equal(again.pixels, gallery[2, 3].pixels)
    assert np.array_equal(again.mask, gallery[2, 3].mask)
    assert not np.array_equal(drawing(3, 3).pixels[:400, :600], again.pixels[:400, :600])


def test_every_grade_has_its_lesions(gallery):
    for (_, grade), drawn in gallery.items():
        kinds = {kind for kind, count in drawn.counts.items() if count}
        if grade == 0:
            assert not kinds
            assert not drawn.mask.any()
        elif grade == 1:
            assert kinds == {"microaneurysms"}
        elif grade == 2:
            assert kinds & {"haemorrhages", "exudates"}
            assert not kinds & {"new_vessels", "irma", "venous_beading"}
        elif grade == 3:
            assert "new_vessels" not in kinds
            assert kinds & {"irma", "venous_beading"} or drawn.counts["haemorrhages"] > 80
        else:
            assert "new_vessels" in kinds


def test_the_mask_holds_the_kinds_that_were_drawn_and_no_others(gallery):
    for drawn in gallery.values():
        for kind, bit in KINDS.items():
            # what lies behind the field's edge isn't in the picture, nor in the truth
            seen = bool((drawn.mask & bit).any())
            assert seen <= bool(drawn.counts.get(kind, 0)), kind
            if drawn.counts.get(kind, 0) > 1:
                assert seen, kind


def test_lesions_lie_inside_the_field(gallery):
    for drawn in gallery.values():
        rows, columns = np.nonzero(drawn.mask)
        x, y = drawn.anatomy.centre
        assert (np.hypot(columns - x, rows - y) <= drawn.anatomy.radius + 1).all()


def test_lesions_are_darker_or_paler_than_what_surrounds_them(gallery):
    from scipy.ndimage import binary_dilation

    drawn = gallery[1, 3]
    green = drawn.pixels[..., 1].astype(float)
    blood = (drawn.mask & KINDS["haemorrhages"]) > 0
    around = binary_dilation(blood, iterations=8) & ~binary_dilation(drawn.mask > 0, iterations=3)
    assert green[blood].mean() < 0.75 * green[around].mean()


def test_a_photograph_is_bright_inside_and_black_outside(gallery):
    for drawn in gallery.values():
        x, y = drawn.anatomy.centre
        rows, columns = np.mgrid[: drawn.pixels.shape[0], : drawn.pixels.shape[1]]
        rho = np.hypot(columns - x, rows - y) / drawn.anatomy.radius
        assert drawn.pixels[rho > 1.03].mean() < 8
        inside = drawn.pixels[rho < 0.9].mean(axis=0)
        assert inside[0] > inside[1] > inside[2]
        assert inside[0] > 60


def test_the_disc_lies_on_the_nasal_side():
    for laterality, nasal in (("R", 1), ("L", -1)):
        eye = drawing(5, 0, laterality).anatomy
        assert np.sign(eye.disc[0] - eye.fovea[0]) == nasal
        assert eye.temporal == -nasal


@pytest.mark.parametrize("fault", ["blur", "dark", "half_field"])
def test_a_fault_makes_a_photograph_ungradable(fault):
    from data_schemas.contract import Contract
    from pipeline.demo.photograph import as_png
    from pipeline.imaging.prepare import prepare
    from pipeline.imaging.read import read
    from services.cli.settings import resolve

    contract = resolve(Contract, "contracts", ["fundus"], [])
    for seed in (1, 2):
        data = as_png(drawing(seed, 2, fault=fault).pixels)
        assert not prepare(read(data, contract), contract).quality.sufficient
        sound = as_png(drawing(seed, 2).pixels)
        assert prepare(read(sound, contract), contract).quality.sufficient


def test_smooth_noise_is_smooth_and_even():
    noise = cloud(np.random.default_rng(0), (240, 320), 20)
    assert noise.shape == (240, 320)
    assert noise.dtype == np.float32
    assert abs(float(noise.mean())) < 0.3
    assert 0.6 < float(noise.std()) < 1.4
    assert float(np.abs(np.diff(noise, axis=0)).max()) < 0.5
