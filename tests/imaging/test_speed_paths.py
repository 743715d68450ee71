"""Every short cut of the pixel road against the long way round: the same result, or within a stated bound."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_schemas.contract import Contract, Grey
from data_schemas.errors import ImageError
from pipeline.imaging import codestream, shrink
from pipeline.imaging.colour import apply_palette, unpack_ybr_422, with_channels, ybr_full_to_rgb
from pipeline.imaging.grey import from_zero, grey_levels, is_linear, linear_levels
from pipeline.imaging.instance import GreyFacts, Lut, Stored, Window
from pipeline.imaging.luts import _expand
from pipeline.imaging.picture import picture
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import read
from pipeline.imaging.resize import View, fit, resample, resize

RANGE, HEADER = Grey(window="range"), Grey(window="header")


def recipe(size: int, **changes) -> Contract:
    return Contract.model_validate({"name": "speed", "size": size, **changes})


def exact(contract: Contract) -> Contract:
    return contract.model_copy(update={"shrink": "exact"})


def area_average(levels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The exact mean over each target pixel's rectangle, parts of pixels by their share."""

    def one_axis(values, count):
        length = len(values)
        sums = np.concatenate([np.zeros((1, *values.shape[1:])), values.cumsum(0)])
        ends = np.arange(count + 1) * length / count
        whole = np.minimum(ends.astype(int), length - 1)
        part = (ends - whole).reshape(-1, *[1] * (values.ndim - 1))
        at = sums[whole] + (sums[whole + 1] - sums[whole]) * part
        return (at[1:] - at[:-1]) * count / length

    half = one_axis(levels.astype(np.float64), rows)
    return one_axis(half.swapaxes(0, 1), columns).swapaxes(0, 1)


def retina(rows: int = 1200, columns: int = 1600, share: float = 0.47) -> np.ndarray:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:rows, 0:columns]
    away = np.hypot(y - rows / 2, x - columns / 2) / (share * rows)
    light = 0.6 + 0.4 * np.exp(-(away**2)) - 0.2 * (np.sin(x / 17) * np.sin(y / 23) > 0.9)
    light = light[..., None] * np.array([180, 95, 45]) + rng.normal(0, 3, (rows, columns, 1))
    return np.clip(light * (away < 1)[..., None], 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **{"quality": 92, **options})
    return stream.getvalue()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(2, 9),
    st.sampled_from(["u1", "u2", "i2", "i4"]),
    st.integers(0, 1000),
)
def test_block_means_are_those_of_plain_slices(rows, columns, step, kind, seed):
    limits = np.iinfo(kind)
    pixels = np.random.default_rng(seed).integers(
        limits.min, limits.max, (rows + step, columns + step), kind, endpoint=True
    )
    bits = 8 * np.dtype(kind).itemsize
    means, found = shrink.block_means(pixels, step, bits)
    assert found == (int(pixels.min()), int(pixels.max()))
    expected = [
        [pixels[r : r + step, c : c + step].mean() for c in range(0, pixels.shape[1], step)]
        for r in range(0, pixels.shape[0], step)
    ]
    np.testing.assert_allclose(means, expected, rtol=2e-7, atol=1e-2 * np.spacing(float(1 << bits)))


@settings(deadline=None, max_examples=60)
@given(
    st.floats(-3, 3).filter(lambda slope: abs(slope) > 0.01),
    st.floats(-2000, 2000),
    st.booleans(),
    st.sampled_from([RANGE, HEADER, Grey(window="fixed", centre=10, width=9000)]),
)
def test_the_line_gives_what_the_table_gives(slope, intercept, inverted, grey):
    stored = np.random.default_rng(0).integers(-3000, 3000, (30, 30)).astype(np.int16)
    window = Window(100.5, 5000, "LINEAR_EXACT")
    facts = GreyFacts(16, True, inverted, slope, intercept, window=window)
    limits = (int(stored.min()), int(stored.max()))
    line = linear_levels(stored.astype(np.float64), limits, facts, grey)
    assert np.abs(line.astype(int) - grey_levels(stored, facts, grey)).max() <= 1


def test_shrinking_before_a_range_is_shrinking_after_it(dicom_bytes):
    rng = np.random.default_rng(0)
    stored = np.clip(rng.normal(5000, 900, (1023, 1030)), 0, 16383).astype(np.uint16)
    contract = recipe(256, accept={"frames": "first"}, channels=1)
    for changes in ({}, {"PhotometricInterpretation": "MONOCHROME1"}, {"RescaleSlope": -2, "RescaleIntercept": 7}):  # fmt: skip
        instance = read(dicom_bytes(stored, **changes), contract)
        assert shrink.view(instance, contract).step == 2
        early, late = prepare(instance, contract), prepare(instance, exact(contract))
        assert early.region == late.region
        assert np.abs(early.pixels.astype(int) - late.pixels).max() <= 2


def test_a_clipping_window_differs_only_where_it_clips(dicom_bytes):
    ramp = np.tile(np.arange(1024, dtype=np.uint16), (1024, 1))
    ramp[::2] += 40
    grey = {"window": "fixed", "centre": 500, "width": 400}
    contract = recipe(256, grey=grey, channels=1, accept={"frames": "first"})
    instance = read(dicom_bytes(ramp), contract)
    early, late = prepare(instance, contract).pixels, prepare(instance, exact(contract)).pixels
    apart = np.abs(early[0, :, 0].astype(int) - late[0, :, 0])
    assert apart[100:140].max() <= 1, "the middle of the window"
    assert apart.max() <= 8
    assert apart[:60].max() == 0
    assert apart[200:].max() == 0


@pytest.mark.parametrize(
    ("facts", "grey"),
    [
        (GreyFacts(16, padding=(0, 0)), RANGE),
        (GreyFacts(16, modality_lut=Lut(0, np.arange(9.0), 8)), RANGE),
        (GreyFacts(16, voi_lut=Lut(0, np.arange(9.0), 8)), HEADER),
        (GreyFacts(16, window=Window(5, 4, "SIGMOID")), HEADER),
        (GreyFacts(16, window=Window(5, 1)), HEADER),
    ],
)
def test_what_does_not_commute_with_averaging_is_not_averaged_first(facts, grey):
    assert not is_linear(np.zeros((2, 2), np.uint16), facts, grey)
    assert is_linear(np.zeros((2, 2), np.uint16), GreyFacts(16, window=Window(5, 4)), grey)


def test_floats_are_not_averaged_first():
    assert not is_linear(np.zeros((2, 2), np.float32), GreyFacts(0), RANGE)


def test_one_bright_speck_is_no_blank_picture(dicom_bytes):
    speck = np.zeros((512, 512), np.uint16)
    speck[100, 100] = 1
    grey = {"window": "fixed", "centre": 128, "width": 256}
    contract = recipe(64, grey=grey, accept={"frames": "first"})
    assert prepare(read(dicom_bytes(speck), contract), contract).pixels.max() == 0
    with pytest.raises(ImageError) as caught:
        prepare(read(dicom_bytes(np.zeros_like(speck)), contract), contract)
    assert caught.value.code == "BLANK"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}])  # fmt: skip
def test_a_photograph_decoded_smaller_looks_like_the_one_decoded_in_full(options):
    data = jpeg(retina(), **options)
    for size, divisor in ((350, 4), (700, 2), (900, 1)):
        contract = recipe(size)
        instance = read(data, contract)
        assert (instance.rows, instance.columns) == (1200, 1600)
        assert shrink.view(instance, contract).step == divisor
        small, full = prepare(instance, contract), prepare(instance, exact(contract))
        assert small.region == full.region
        apart = np.abs(small.pixels.astype(int) - full.pixels)
        assert apart.mean() < 0.6
        assert np.percentile(apart, 99.9) <= 16, "at the sharp rim of the field"


def test_pixels_and_the_reader_s_picture_stay_in_full():
    data = jpeg(retina())
    contract = recipe(200)
    instance = read(data, contract)
    whole = np.asarray(Image.open(io.BytesIO(data)))
    assert shrink.view(instance, contract).step == 8
    assert (instance.pixels == whole).all()
    assert (picture(instance) == whole).all()
    assert read(data, contract).source_sha256 == read(data, exact(contract)).source_sha256


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_photograph_is_turned_when_decoded_smaller(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    contract = recipe(256)
    instance = read(jpeg(retina()[:, :1500], exif=exif), contract)
    small, full = prepare(instance, contract), prepare(instance, exact(contract))
    assert (instance.rows, instance.columns) == instance.pixels.shape[:2]
    assert np.abs(small.pixels.astype(int) - full.pixels).mean() < 0.6


@pytest.mark.parametrize("share", [0.47, 0.2])
def test_the_field_is_the_same_and_has_the_pixels_it_needs(share):
    contract = recipe(320, region="fundus_field")
    instance = read(jpeg(retina(1400, 1600, share)), contract)
    small, full = prepare(instance, contract), prepare(instance, exact(contract))
    side = full.region[2]
    assert all(abs(a - b) <= 0.012 * side + 4 for a, b in zip(small.region, full.region, strict=True))  # fmt: skip
    seen = shrink.closer(shrink.view(instance, contract), instance, contract, small.region)
    assert seen.step == 1 or small.region[2] / seen.step >= contract.size
    inner = np.s_[60:260, 60:260]
    assert np.abs(small.pixels[inner].astype(int) - full.pixels[inner]).mean() < 2


def test_jpeg_kinds_that_pillow_would_read_differently_are_decoded_in_full():
    grey = codestream.look(jpeg(retina()[..., 0]))
    colour = codestream.look(jpeg(retina()))
    stream = io.BytesIO()
    Image.fromarray(retina()).convert("CMYK").save(stream, "JPEG")
    ink = codestream.look(stream.getvalue())
    assert codestream.scalable(colour)
    assert not codestream.scalable(grey)
    assert not codestream.scalable(ink)
    # without JFIF and Adobe, a header's RGB counts
    data = jpeg(retina())
    bare = codestream.look(data[:2] + data[4 + int.from_bytes(data[4:6], "big") :])
    assert codestream.scalable(bare)
    assert not codestream.scalable(bare, header_rgb=True)


def test_a_broken_stream_is_refused_at_any_scale():
    data = jpeg(retina())
    for size in (200, 1600):
        with pytest.raises(ImageError) as caught:
            read(data[: len(data) // 2], recipe(size))
        assert caught.value.code == "TRUNCATED"


def test_values_that_are_there_in_full_have_no_smaller_size():
    with pytest.raises(ValueError, match="1/2"):
        Stored(np.zeros((4, 4))).at(2)


@pytest.mark.parametrize("size", [64, 128, 100, 230])
def test_resizing_is_near_the_exact_area_average(size):
    levels = retina(512, 512)
    apart = np.abs(resize(levels, size) - area_average(levels, size, size))
    assert apart.mean() < 1.0
    if 512 % size == 0:
        assert apart.max() <= 1.0


def test_a_fit_shows_the_same_rectangle_at_any_step():
    levels = retina(640, 960)[..., 0]
    half = np.asarray(Image.fromarray(levels).reduce(2))
    for region in ((0, 0, 640, 960), (-160, 0, 960, 960), (101, 57, 300, 300), (500, 700, 400, 400)):  # fmt: skip
        one = fit(View(levels, 1, 640, 960), region, 96)
        two = fit(View(half, 2, 640, 960), region, 96)
        assert ((one == 0) == (two == 0)).mean() > 0.97
        assert np.abs(one.astype(int) - two).mean() < 1.2
    assert not fit(View(levels, 1, 640, 960), (700, 0, 50, 50), 32).any()
    assert resample(levels, (320, 480)).shape == (320, 480)


@pytest.mark.parametrize("kind", ["u1", "u2", "i1", "i2", "i4", "i8"])
def test_places_in_a_table_fit_the_smallest_type(kind):
    limits = np.iinfo(kind)
    low, high = max(limits.min, -70000), min(limits.max, 60000)
    pixels = np.array([[low, 0, 5, high]], kind)
    assert from_zero(pixels, low).astype(np.int64).tolist() == [[0, -low, 5 - low, high - low]]


@settings(deadline=None)
@given(st.integers(0, 100), st.sampled_from(["u1", "u2", "i2"]), st.integers(-50, 50))
def test_a_palette_looks_up_as_plain_indexing_does(seed, kind, first):
    rng = np.random.default_rng(seed)
    limits = np.iinfo(kind)
    indices = rng.integers(limits.min, limits.max, (7, 5), kind, endpoint=True)
    colours = rng.integers(0, 256, (100, 3)).astype(np.uint8)
    plain = colours[np.clip(indices.astype(int) - first, 0, 99)]
    assert (apply_palette(indices, first, colours) == plain).all()


def test_ycbcr_by_tables_is_the_formula_half_up():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (300, 400, 3)).astype(np.uint8)
    y, cb, cr = np.moveaxis(pixels.astype(np.float64), -1, 0)
    cb, cr = cb - 128, cr - 128
    green = y - 0.114 * 1.772 / 0.587 * cb - 0.299 * 1.402 / 0.587 * cr
    formula = np.stack([y + 1.402 * cr, green, y + 1.772 * cb], -1)
    apart = np.abs(ybr_full_to_rgb(pixels) - np.clip(np.floor(formula + 0.5), 0, 255))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 1e-4, "ties of the last bit"


def test_chroma_of_pairs_is_spread():
    values = np.arange(24, dtype=np.uint8)
    out = unpack_ybr_422(values, 2, 6)
    assert out[0].tolist() == [[0, 2, 3], [1, 2, 3], [4, 6, 7], [5, 6, 7], [8, 10, 11], [9, 10, 11]]
    assert out[1, 5].tolist() == [21, 22, 23]


def test_grey_in_three_channels_is_repeated():
    grey = np.arange(100, dtype=np.uint8).reshape(10, 10)
    assert (with_channels(grey, 3) == grey[..., None]).all()
    assert with_channels(grey, 1).shape == (10, 10, 1)


def test_segments_of_a_palette_by_hand():
    # PS3.3 C.7.9.2: discrete 10 20 30, a line of 4 up to 50, then both again by an indirect segment
    words = [0, 3, 10, 20, 30, 1, 4, 50, 2, 2, 0, 0]
    expected = [10, 20, 30, 35, 40, 45, 50, 10, 20, 30, 35, 40, 45, 50]
    found = _expand(words, 14, 16, little_endian=True)
    assert found.tolist() == expected
    packed = [np.array(words, "<u2").tobytes()]
    assert _expand(packed, 14, 16, little_endian=True).tolist() == expected
    assert _expand(words, 15, 16, little_endian=True) is None, "too few"
    assert _expand([1, 4, 50], 4, 16, little_endian=True) is None, "a line from nowhere"
    assert _expand([0, 1, 7, 2, 1, 3, 0], 9, 16, little_endian=True) is None, "points at itself"


@pytest.mark.needs_shared
def test_lossless_jpeg_is_the_same_from_both_decoders(shared_dicom):
    import imagecodecs
    import pydicom
    from pydicom.encaps import get_frame

    seen = 0
    for path in sorted(shared_dicom.glob("*.dcm")):
        try:
            header = pydicom.dcmread(path, force=True)
            frame = get_frame(header.PixelData, 0, number_of_frames=1)
            stream = codestream.look(frame)
        except Exception:  # noqa: BLE001, S112 - broken on purpose, or not encapsulated
            continue
        if stream is None or stream.kind != "lossless jpeg" or stream.components != 1:
            continue
        mine = codestream.decode(frame, stream)
        try:
            other = imagecodecs.ljpeg_decode(frame)
        except Exception:  # noqa: BLE001, S112 - it reads fewer predictors
            continue
        seen += 1
        assert (mine.astype(np.int64) == other).all(), path.name
    assert seen >= 10
