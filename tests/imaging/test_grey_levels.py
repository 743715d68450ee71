"""Grey values by PS3.3 C.11: worked by hand, each rule once."""

import io
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread

from data_schemas.contract import Grey
from data_schemas.errors import ImageError
from pipeline.imaging import grey
from pipeline.imaging.grey import grey_levels, voi_window
from pipeline.imaging.instance import GreyFacts, Lut, Window
from pipeline.imaging.picture import picture
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import from_array, read

HEADER, RANGE = Grey(window="header"), Grey(window="range")


def test_linear_is_the_formula_of_the_standard():
    # C.11.2.1.2.1: x <= c-0.5-(w-1)/2 black, x > c-0.5+(w-1)/2 white, else a line
    values = np.array([-1, 0, 1, 128, 254, 255, 256.0])
    shown = voi_window(values, Window(128, 256))
    assert shown.tolist() == pytest.approx([0, 0, 1 / 255, 128 / 255, 254 / 255, 1, 1])


def test_a_width_of_one_is_a_threshold():
    assert voi_window(np.array([9.0, 9.5, 10.0]), Window(10, 1)).tolist() == [0, 0, 1]


def test_linear_exact_has_no_half_pixel():
    shown = voi_window(np.array([768.0, 1024, 1280]), Window(1024, 512, "LINEAR_EXACT"))
    assert shown.tolist() == [0, 0.5, 1]


def test_sigmoid():
    shown = voi_window(np.array([1024.0, 1152.0]), Window(1024, 512, "SIGMOID"))
    assert shown.tolist() == pytest.approx([0.5, 1 / (1 + np.exp(-1))])


def test_monochrome1_is_inverted_after_the_window_and_once():
    stored = np.array([[0, 100, 200]], np.uint16)
    facts = GreyFacts(16, inverted=True, window=Window(100.5, 201))
    assert grey_levels(stored, facts, HEADER)[0].tolist() == [255, 128, 0]
    assert grey_levels(stored, facts, RANGE)[0].tolist() == [255, 128, 0]


def test_rescale_comes_before_the_window():
    stored = np.array([[0, 1024, 2048]], np.uint16)
    facts = GreyFacts(16, intercept=-1024.0, window=Window(0.5, 2049))
    assert grey_levels(stored, facts, HEADER)[0].tolist() == [0, 128, 255]


def test_a_negative_slope_turns_the_order_around():
    facts = GreyFacts(12, slope=-1.0, intercept=4095.0)
    levels = grey_levels(np.array([[0, 4095]], np.uint16), facts, RANGE)
    assert levels[0].tolist() == [255, 0]


def test_padding_is_black_and_does_not_count_for_the_range():
    facts = GreyFacts(16, signed=True, padding=(-2000, -2000))
    levels = grey_levels(np.array([[-2000, 0, 10]], np.int16), facts, RANGE)
    assert levels[0].tolist() == [0, 0, 255]
    inverted = GreyFacts(16, signed=True, padding=(-2000, -2000), inverted=True)
    levels = grey_levels(np.array([[-2000, 0, 10]], np.int16), inverted, RANGE)
    assert levels[0].tolist() == [0, 255, 0]


@pytest.mark.parametrize("limit", [None, -0.1])
@pytest.mark.parametrize(("kind", "bits"), [("Float", 32), ("DoubleFloat", 64)])
def test_padding_of_floating_point_pixels(kind, bits, limit, dicom_bytes, anything):
    lowest = np.finfo(f"f{bits // 8}").min
    values = np.array([[lowest, -0.1], [2.0, 4.0]], f"<f{bits // 8}")
    header = dcmread(io.BytesIO(dicom_bytes(np.zeros((2, 2), np.uint16))))
    del header.PixelData
    header.BitsAllocated = bits
    setattr(header, f"{kind}PixelData", values.tobytes())
    setattr(header, f"{kind}PixelPaddingValue", float(lowest))
    if limit is not None:
        setattr(header, f"{kind}PixelPaddingRangeLimit", limit)
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    instance = read(stream.getvalue(), anything)
    levels = grey_levels(instance.pixels, instance.grey, RANGE)
    # black and counted for no range
    assert levels.tolist() == ([[0, 0], [131, 255]] if limit is None else [[0, 0], [0, 255]])


def test_a_modality_lut_replaces_the_slope_and_clamps():
    table = Lut(first=10, entries=np.array([0.0, 50.0, 100.0]), top=100)
    facts = GreyFacts(8, slope=9.0, modality_lut=table)
    levels = grey_levels(np.array([[0, 10, 11, 12, 255]], np.uint8), facts, RANGE)
    assert levels[0].tolist() == [0, 0, 128, 255, 255]


def test_a_voi_lut_is_scaled_by_its_depth_not_by_its_content():
    table = Lut(first=0, entries=np.array([0.0, 100.0]), top=255)
    facts = GreyFacts(8, voi_lut=table, window=Window(1, 2))
    assert grey_levels(np.array([[0, 1]], np.uint8), facts, HEADER)[0].tolist() == [0, 100]


def test_nan_is_no_data():
    stored = np.array([[np.nan, 1.0, 3.0, np.inf]])
    assert grey_levels(stored, GreyFacts(0), RANGE)[0].tolist() == [0, 0, 255, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32])
def test_one_value_all_over_is_blank(dtype):
    with pytest.raises(ImageError) as caught:
        grey_levels(np.full((4, 4), 7, dtype), GreyFacts(16), RANGE)
    assert caught.value.code == "BLANK"


@given(
    st.lists(st.integers(-3000, 3000), min_size=2, max_size=40).filter(lambda v: len(set(v)) > 1),
    st.floats(-3, 3).filter(lambda slope: abs(slope) > 0.01),
    st.floats(-2000, 2000),
    st.booleans(),
)
def test_the_table_gives_what_direct_arithmetic_gives(values, slope, intercept, inverted):
    facts = GreyFacts(16, True, inverted, slope, intercept, window=Window(40, 400))
    stored = np.array([values], np.int16)
    for recipe in (HEADER, RANGE, Grey(window="fixed", centre=10, width=100)):
        table = grey_levels(stored, facts, recipe)
        direct = grey_levels(stored.astype(np.float64), facts, recipe)
        # single and double precision may part only where a level's half is cut
        start, gain = grey._line((min(values), max(values)), facts, recipe)
        halves = (stored - start) * gain + 0.5
        apart = table.astype(int) != direct.astype(int)
        assert np.abs(table.astype(int) - direct.astype(int)).max() <= 1
        assert (np.abs(halves - np.round(halves))[apart] < 0.01).all()


def test_the_medmnist_window_is_the_identity():
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    recipe = Grey(window="fixed", centre=128, width=256)
    assert (grey_levels(stored, GreyFacts(8), recipe) == stored).all()


def test_a_picture_shows_the_header_window_and_survives_a_blank_one(dicom_bytes, anything):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    instance = read(dicom_bytes(ramp, WindowCenter=128, WindowWidth=256), anything)
    assert (picture(instance)[..., 0] == ramp).all()
    blank = read(dicom_bytes(np.zeros((8, 8), np.uint16)), anything)
    assert picture(blank).shape == (8, 8, 3)


def test_several_windows_take_the_first_and_say_so(dicom_bytes, anything):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    data = dicom_bytes(ramp, WindowCenter=[128, 10], WindowWidth=[256, 20])
    instance = read(data, anything)
    assert instance.grey.window == Window(128, 256)
    assert "several windows: the first is taken" in instance.warnings


def test_no_repr_shows_a_patient(dicom_bytes, anything):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    instance = read(dicom_bytes(ramp, PatientID="SECRET-77", PatientName="Doe^Jane"), anything)
    assert instance.patient_key == "SECRET-77"
    assert "SECRET" not in repr(instance)
    assert "SECRET" not in repr(prepare(instance, anything))


def test_from_array_refuses_what_is_no_picture():
    for wrong in (
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(0, np.uint8),
    ):
        with pytest.raises(ImageError):
            from_array(wrong)


@pytest.mark.parametrize("padding", [None, (0.0, 0.0), (-5.0, 3.0)])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "i4"])
@pytest.mark.parametrize(
    "grey", [Grey(window="range"), Grey(window="fixed", centre=40.5, width=77)]
)
def test_a_line_pixel_by_pixel_is_the_table_s(grey, kind, padding):
    limits = np.iinfo(kind)
    rng = np.random.default_rng(0)
    low, high = max(limits.min, -(1 << 16)), min(limits.max, 1 << 15)
    stored = rng.integers(low, high, (50, 40), kind, endpoint=True)
    stored[0, :20] = 0
    for slope, intercept in ((1.0, 0.0), (-0.37, 1000.0), (2.5e-4, -3e4)):
        for inverted in (False, True):
            facts = GreyFacts(16, limits.min < 0, inverted, slope, intercept, padding=padding)
            held = np.ones(stored.shape, bool)
            if padding is not None:
                held = (stored < padding[0]) | (stored > padding[1])
            values = stored * slope + intercept
            if grey.window == "range":
                ends = values[held].min(), values[held].max()
            else:
                ends = grey.centre - grey.width / 2, grey.centre + grey.width / 2 - 1
            shown = np.clip((values - ends[0]) / (ends[1] - ends[0]), 0, 1)
            expected = np.floor((1 - shown if inverted else shown) * 255 + 0.5) * held
            apart = np.abs(grey_levels(stored, facts, grey) - expected)
            assert apart.max() <= 1
            assert (apart > 0).mean() < 0.01, "ties of the last bit"


@pytest.mark.parametrize("slope", [1e-300, 5e-324, 1e300, -1e250])
@pytest.mark.parametrize(
    "window", [None, Window(1e300, 1e300), Window(0.0, 1e-300, "LINEAR_EXACT")]
)
def test_numbers_of_a_hostile_header_end_as_levels_or_a_refusal(slope, window):
    stored = np.arange(100, dtype=np.uint16).reshape(10, 10)
    facts = GreyFacts(16, slope=slope, intercept=1e300, window=window)
    with np.errstate(all="ignore"), suppress(ImageError):
        assert grey_levels(stored, facts, Grey(window="header")).dtype == np.uint8
