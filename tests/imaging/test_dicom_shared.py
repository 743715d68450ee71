"""The 497 DICOM files of ../shared/data/dicom: each ends as an answer, and right where it can be checked."""

import csv
import hashlib
import logging
import tracemalloc
import warnings
from collections import Counter

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

from data_schemas.contract import Accept, Contract, Grey
from data_schemas.dataset import REFUSALS
from data_schemas.errors import ImageError
from pipeline.imaging.grey import grey_levels
from pipeline.imaging.picture import picture
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import read

pytestmark = pytest.mark.needs_shared

UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"}  # fmt: skip

# SHA-256 (16 digits) of the stored values as little-endian int32, on which pydicom 3.0.2 with
# pylibjpeg 2.1 and pyjpegls 1.5 agreed with us when they were written down
LOSSLESS = {
    "00a5da447926": "1bd3dd1818cf4a04",  # .4.90, 8 bits, RGB
    "06359330f741": "7cdfd55ff0202943",  # .4.80, 16 bits signed, MONOCHROME2
    "0db74e1c44d1": "ddf8b9ea6a290180",  # .4.70, 16 bits signed, MONOCHROME2
    "1904085af52e": "7b32ac60220694f7",  # .4.80, 12 bits, MONOCHROME2
    "218356eb8b36": "44eeaee08c4522c9",  # .4.57, 16 bits, MONOCHROME2
    "2296005f4a4d": "5c84475787d4c3c7",  # .4.80, 10 bits, MONOCHROME2
    "2df92c523d36": "22e412dd68b03a32",  # .4.90, 13 bits signed, MONOCHROME2
    "308fb028c8fb": "0363015f31f5ee7f",  # .4.80, 7 bits, MONOCHROME2
    "38f8e8adf46b": "fd951b533e04fed3",  # .4.201, 8 bits, RGB
    "4268eeb26d49": "16bb027fbd6f3990",  # .4.90, 12 bits, MONOCHROME2
    "4834ad62fb6e": "44eeaee08c4522c9",  # .4.80, 16 bits, MONOCHROME2
    "49f63dc1dd03": "36ed5e257c356eca",  # .4.90, 1 bits, MONOCHROME2
    "4c0049e0355b": "b8d9a6cee6ff2ea9",  # .4.90, 16 bits signed, MONOCHROME2
    "500eea66aec3": "3fcbb44d32fea3a9",  # .4.80, 8 bits, RGB
    "5680b75afc11": "d9efca4ef5770b5b",  # .4.70, 8 bits, MONOCHROME2
    "5ce78883854f": "70daaa97deb27552",  # .4.70, 12 bits, MONOCHROME2
    "5f0539e8963b": "5c84475787d4c3c7",  # .4.90, 10 bits, MONOCHROME2
    "61f38f250a7d": "83aca7c96e3945e8",  # .4.80, 15 bits signed, MONOCHROME2
    "6ee8b7ddccf6": "67aba02b83860105",  # .4.70, 16 bits, MONOCHROME2
    "727d736327df": "cbc217913499851a",  # .4.90, 16 bits, MONOCHROME2
    "8733d36f1937": "0dac79811d0ac8af",  # .4.57, 12 bits, MONOCHROME2
    "929f7cfa778a": "d48c5ce6172ec986",  # .4.201, 16 bits, MONOCHROME2
    "94f21a860a27": "5c84475787d4c3c7",  # .4.70, 10 bits, MONOCHROME2
    "a492ed4a120c": "89ad10bbda73de0d",  # .4.70, 8 bits, RGB
    "ca326514457d": "5182dae2c90034b7",  # .4.57, 16 bits signed, MONOCHROME2
    "e20c4ba29df1": "78a4acde68e420d2",  # .4.80, 8 bits, MONOCHROME2
    "e9c243568c75": "7b32ac60220694f7",  # .4.202, 12 bits, MONOCHROME2
    "fa316e8d8521": "8e430c7ef61d9db7",  # .4.70, 14 bits, MONOCHROME2
}


@pytest.fixture
def at(shared_dicom, anything):
    """Return a function that reads a file of the set by the beginning of its name."""

    def load(name: str, contract: Contract = anything):
        return read((shared_dicom / f"{name}.dcm").read_bytes(), contract)

    return load


def code_of(load, name: str, *contract) -> str:
    with pytest.raises(ImageError) as caught:
        load(name, *contract)
    return caught.value.code


def levels(instance, window: str = "header") -> np.ndarray:
    return grey_levels(instance.pixels, instance.grey, Grey(window=window))


def digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.astype("<i4").tobytes()).hexdigest()[:16]


def test_every_file_ends_as_an_image_or_a_refusal(shared_dicom, anything, fundus, caplog):
    caplog.set_level(logging.DEBUG)
    counts: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    with (shared_dicom / "index.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        data = (shared_dicom / row["file"]).read_bytes()
        for contract in (anything, fundus):
            try:
                instance = read(data, contract)
                prepared = prepare(instance, contract)
                assert picture(instance).shape == (instance.rows, instance.columns, 3)
                answer = "image"
                assert prepared.pixels.shape == (contract.size, contract.size, contract.channels)
            except ImageError as error:
                answer = error.code
            counts[f"{contract.name}: {answer}"] += 1
            # the index says what a first reader with the same decoders managed
            if contract is anything and row["decodes_imagecodecs"] == "yes":
                missed[answer] += 1
    assert len(rows) == 497
    assert {key.partition(": ")[2] for key in counts} <= {"image", *REFUSALS}
    # 40 more decode, but hold one value all over (most of the fuzz corpus)
    assert (counts["anything: image"], counts["anything: BLANK"]) == (318, 40)
    assert counts["fundus: image"] == 3, "three drawn fundus photographs"
    assert counts["fundus: NOT_COLOUR"] >= 1
    # the contradictory headers of the fuzz corpus, frames that aren't there, a 256-megapixel bomb
    del missed["image"], missed["BLANK"]
    assert missed == {"CORRUPT": 14, "TOO_LARGE": 3}
    assert not caplog.records, "pydicom's messages quote header values"


def test_raw_and_rle_values_are_those_of_pydicom(shared_dicom, anything):
    same = 0
    for path in sorted(shared_dicom.glob("*.dcm")):
        try:
            instance = read(path.read_bytes(), anything)
        except ImageError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                header = pydicom.dcmread(path, force=True)
                syntax = getattr(header, "file_meta", {}).get("TransferSyntaxUID")
                if syntax not in UNCOMPRESSED or header.get("BitsAllocated") == 1:
                    continue
                theirs = header.pixel_array
                if int(header.get("NumberOfFrames") or 1) > 1:
                    theirs = theirs[0]
                if header.PhotometricInterpretation == "PALETTE COLOR":
                    if syntax == "1.2.840.10008.1.2.2":
                        continue  # pydicom reads big-endian palettes as zeros
                    theirs = apply_color_lut(theirs, header)
                    theirs = theirs >> 8 if theirs.dtype == np.uint16 else theirs
            except Exception:  # noqa: BLE001, S112 - the second opinion can't read it
                continue
        ours = instance.pixels
        if ours.ndim == 3 and ours.dtype == np.uint16:  # we give colour in the full range
            deep = int(header.BitsStored)
            theirs = theirs >> max(deep - 16, 0) << max(16 - deep, 0)
        assert ours.shape == theirs.shape, path.name
        assert np.array_equal(ours.astype(float), theirs.astype(float), equal_nan=True), path.name
        same += 1
    assert same >= 180


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_codestreams(name, at):
    assert digest(at(name).pixels) == LOSSLESS[name]


RAMP = "7b32ac60220694f7"


@pytest.mark.parametrize(
    ("name", "trap"),
    [
        ("1904085af52e", "one frame in three fragments, empty offset table"),
        ("78ee739afc8e", "one frame in three fragments, wrong offset table"),
        ("1880c0e68c82", "the header says JPEG 2000, the stream is JPEG-LS"),
        ("91317e44b82b", "the header says uncompressed, the data are encapsulated"),
        ("69929cd7124a", "encapsulated uncompressed"),
        ("e9c243568c75", "HTJ2K"),
        ("ebbd154c705b", "implicit VR under an explicit syntax"),
        ("382931a0c6f7", "explicit VR under an implicit syntax"),
        ("fc513c8342a1", "MONOCHROME1 doesn't touch stored values"),
    ],
)
def test_one_picture_in_many_wrappings(name, trap, at):
    assert digest(at(name).pixels) == RAMP, trap


def test_the_stream_is_named_when_the_header_is_wrong(at):
    assert "the codestream is jpeg-ls" in at("1880c0e68c82").warnings
    assert "the codestream is jpeg" in at("fa4b62ab3535").warnings


@pytest.mark.parametrize("name", ["fc513c8342a1", "41139ddab257"])
def test_monochrome1_is_turned_once(name, at):
    instance = at(name)
    shown = levels(instance, "range").astype(int).ravel()
    stored = instance.pixels.astype(int).ravel()
    assert shown[stored.argmin()] == 255
    assert shown[stored.argmax()] == 0
    assert np.corrcoef(shown, stored)[0, 1] < -0.99


@pytest.mark.parametrize(
    "name",
    [
        "7e8a4a652e11",
        "0c38b3338a94",
        "549400d846ec",
        "857c229fd4b1",
        "7bac9dc5234f",
        "156126c2e600",
        "b4b42949d324",
        "3b1195f823c3",
    ],
)
def test_windows_and_luts_as_pydicom_computes_them(name, at, shared_dicom):
    header = pydicom.dcmread(shared_dicom / f"{name}.dcm")
    instance = at(name)
    values = apply_modality_lut(header.pixel_array, header)
    if "WindowWidth" in header or "VOILUTSequence" in header:
        theirs = apply_voi_lut(values, header).astype(float)
        table = instance.grey.voi_lut
        low, high = (0.0, table.top) if table is not None else (theirs.min(), theirs.max())
        shown = levels(instance)
    else:
        theirs = values.astype(float)
        low, high = theirs.min(), theirs.max()
        shown = levels(instance, "range")
    assert np.abs(shown - (theirs - low) / (high - low) * 255).max() <= 1.0


def test_a_negative_slope_turns_the_order_around(at):
    # pydicom's own window turns it back: its output range is rescaled, too
    instance = at("9ed7dc138866")
    assert (instance.grey.slope, instance.grey.intercept) == (-1, 4095)
    shown, stored = levels(instance), instance.pixels
    assert shown[stored == 0].min() == 255
    assert shown[stored == stored.max()].max() == 0


def test_windows_that_can_not_be_used(at):
    zero = at("63984e7f9e96")
    assert zero.grey.window is None
    assert any("invalid" in warning for warning in zero.warnings)
    assert levels(zero).max() == 255
    assert set(np.unique(levels(at("68ecc2235488")))) == {0, 255}


def test_a_lut_of_8_bit_entries_in_words_reaches_white(at):
    shown = levels(at("ea3b62d7dc2a"))
    assert (shown.min(), shown.max()) == (0, 255)


def test_padding_is_black(at):
    instance = at("193508bc0d23")
    padded = (instance.pixels >= -2048) & (instance.pixels <= -2000)
    assert padded.any()
    shown = levels(instance, "range")
    assert (shown[padded] == 0).all()
    assert shown[~padded].max() == 255


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("62d471cff254", 2.0),  # YBR_FULL
        ("91f9b32a5cd1", 8.0),  # YBR_FULL_422
        ("37757f88cc30", 8.0),  # JPEG with JFIF under an RGB header
        ("833d7c17c1b5", 8.0),  # 4:2:0 under YBR_FULL_422
        ("9ac126003fca", 8.0),  # 4:2:2
        ("ad3c5a7a1b61", 8.0),  # Adobe transform 0
        ("50b32176bb73", 0.0),  # JPEG 2000 with component transform under an RGB header
        ("8215e0cfdac9", 0.0),  # YBR_RCT
        ("d3973704bb9e", 0.0),  # YBR_RCT without the transform
        ("579e13cf6ca9", 0.0),  # JPEG XL
    ],
)
def test_one_colour_picture_in_many_codings(name, most, at):
    plain = at("116a585a04ad").pixels.astype(int)
    assert np.abs(at(name).pixels - plain).mean() <= most


def test_a_jpeg_without_markers_under_an_rgb_header_is_rgb(at, shared_dicom):
    # libjpeg would guess YCbCr: a mean error of 48
    first = pydicom.dcmread(shared_dicom / "0c9a6d9fea4e.dcm")
    assert first.PhotometricInterpretation == "RGB"
    corner = at("0c9a6d9fea4e").pixels.reshape(-1, 3).mean(axis=0)
    assert corner.min() > 130


@pytest.mark.parametrize(
    "name", ["c6f5b60e1711", "d9bb21971715", "33ab2725265b", "66d20d7e5f0a", "8d26f9027fc4"]
)
def test_palettes(name, at, shared_dicom):
    header = pydicom.dcmread(shared_dicom / f"{name}.dcm")
    theirs = apply_color_lut(header.pixel_array, header)
    theirs = theirs >> 8 if theirs.dtype == np.uint16 else theirs
    assert (at(name).pixels == theirs).all()


@pytest.mark.parametrize(
    ("name", "aspect"), [("9aa9b3711d68", 2.0), ("d01a681d141e", 2.0), ("16bfc3134e59", 4 / 3)]
)
def test_pixels_that_are_not_square(name, aspect, at, anything):
    instance = at(name)
    assert instance.aspect == pytest.approx(aspect)
    top, left, height, width = prepare(instance, anything).region
    assert height * aspect == pytest.approx(width, rel=0.02)
    assert top <= 0
    assert left <= 0


def test_lateralities(at):
    assert at("fa4b62ab3535").laterality == "R"
    assert at("be16d3f5094b").laterality == "R"
    assert at("c260b6850f2c").laterality == "L"
    assert at("469e8b7e4f21").laterality == "U"


def test_a_fundus_contract_and_what_is_none(at, fundus):
    assert at("be16d3f5094b", fundus).modality == "OP"
    # a real Heidelberg OP object: an infrared picture, grey
    assert code_of(at, "fa4b62ab3535", fundus) == "NOT_COLOUR"
    assert code_of(at, "0010603defcc", fundus) == "WRONG_MODALITY"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("e2cd9a9a3857", "NOT_AN_IMAGE"),  # an encapsulated PDF
        ("754578c7c8db", "NO_DECODER"),  # MPEG-2
        ("b5b6c4725958", "TRUNCATED"),  # empty pixel data
        ("0b1a19fb2534", "CORRUPT"),  # RLE with 2^32 segments
        ("d10ba4e25bf7", "TOO_LARGE"),  # two thousand million frames
    ],
)
def test_refusals(name, code, at):
    assert code_of(at, name) == code


@pytest.mark.parametrize(
    ("name", "code", "megabytes"),
    [
        ("06c1b8984edd", "TOO_LARGE", 2),  # 65535 x 65535 in a header
        ("18b35e0db90d", "TOO_LARGE", 2),  # 16000 x 16000 JPEG-LS in 3 kB
        ("cd8c977ce5a7", "CORRUPT", 2),  # a 64 x 64 header around 16000 x 16000
        ("a10b5f0a9752", "TOO_LARGE", 140),  # 400 MB deflated into 390 kB
    ],
)
def test_bombs_are_refused_cheaply(name, code, megabytes, at):
    tracemalloc.start()
    try:
        assert code_of(at, name) == code
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()


def test_frames(at, shared_dicom, anything):
    single = Contract(name="single")
    assert code_of(at, "2f83e3a2ef0d", single) == "MULTIFRAME"
    middle = Contract(name="middle", accept=Accept(frames="middle"))
    first, mid = at("2f83e3a2ef0d"), at("2f83e3a2ef0d", middle)
    header = pydicom.dcmread(shared_dicom / "2f83e3a2ef0d.dcm")
    frames = int(header.NumberOfFrames)
    assert first.warnings[0] == f"frame 1 of {frames}"
    assert mid.warnings[0] == f"frame {frames // 2 + 1} of {frames}"
    assert first.pixels.shape == mid.pixels.shape


@pytest.mark.needs_shared
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_encapsulated_pixels_cut_off_are_truncated(share, shared_dicom, anything):
    """The parser drops the whole header of such a file; it is still an image that ends too soon."""
    data = (shared_dicom / "be16d3f5094b.dcm").read_bytes()
    with pytest.raises(ImageError) as refused:
        read(data[: int(len(data) * share)], anything)
    assert refused.value.code == "TRUNCATED"
