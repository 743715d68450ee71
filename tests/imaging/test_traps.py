"""The traps of real DICOM files, one by one: each named as in the project's notes, with its files."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_color_lut

from data_schemas.contract import Accept, Contract, Grey
from data_schemas.errors import ImageError
from pipeline.imaging.grey import grey_levels, modality_lut
from pipeline.imaging.instance import Stored
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import instances, read
from pipeline.imaging.windows import settled

pytestmark = pytest.mark.needs_shared

RAMP = "ebbd154c705b"
"""One drawn picture that the folder holds in many wrappings."""
PARROT = "116a585a04ad"
"""The same in colour."""


@dataclass(frozen=True)
class Files:
    """Reads files of the set by the beginning of their names."""

    folder: Path
    contract: Contract

    def data(self, name: str) -> bytes:
        return (self.folder / f"{name}.dcm").read_bytes()

    def image(self, name: str, contract: Contract | None = None):
        return read(self.data(name), contract or self.contract)

    def header(self, name: str):
        return pydicom.dcmread(self.folder / f"{name}.dcm", force=True)

    def levels(self, name: str, window: str = "header") -> np.ndarray:
        instance = self.image(name)
        return grey_levels(instance.pixels, instance.grey, Grey(window=window))

    def code(self, name: str) -> str:
        with pytest.raises(ImageError) as caught:
            self.image(name)
        return caught.value.code


TRAPS: dict[str, tuple[tuple[str, ...], Callable[[Files], None]]] = {}


def trap(title: str, *names: str):
    def register(check: Callable[[Files], None]):
        assert title not in TRAPS
        TRAPS[title] = (names, check)
        return check

    return register


@pytest.fixture(scope="module")
def files(shared_dicom, anything) -> Files:
    return Files(shared_dicom, anything)


@trap("MONOCHROME1", "fc513c8342a1", "41139ddab257", "cd42cef23503")
def _monochrome1(files):
    for name in TRAPS["MONOCHROME1"][0]:
        instance = files.image(name)
        assert instance.grey.inverted
        # the inverse picture as MONOCHROME2: same values after the modality LUT, turned around
        top = int(instance.pixels.max())
        turned = replace(
            instance,
            stored=Stored((top - instance.pixels.astype(np.int32)).astype(np.int32)),
            grey=replace(instance.grey, inverted=False, slope=1.0, intercept=0.0, window=None),
        )
        mine = replace(instance, grey=replace(instance.grey, window=None))
        assert (
            prepare(mine, files.contract).pixels == prepare(turned, files.contract).pixels
        ).all()


@trap("Rescale slope/intercept", "9ed7dc138866", "c0447f73d8c0")
def _rescale(files):
    falling, fraction = files.image("9ed7dc138866"), files.image("c0447f73d8c0")
    assert (falling.grey.slope, falling.grey.intercept) == (-1.0, 4095.0)
    assert fraction.grey.slope == pytest.approx(0.684, abs=1e-3)
    values = modality_lut(fraction.pixels.astype(float), fraction.grey)
    header = files.header("c0447f73d8c0")
    theirs = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
    assert np.allclose(values, theirs)


@trap("Modality LUT Sequence", "7bac9dc5234f", "9c65b39df55d")
def _modality_lut(files):
    for name in TRAPS["Modality LUT Sequence"][0]:
        instance, header = files.image(name), files.header(name)
        table = header.ModalityLUTSequence[0]
        count, first, bits = table.LUTDescriptor
        entries = np.array(table.LUTData if not isinstance(table.LUTData, bytes) else np.frombuffer(table.LUTData, "<u2"))  # fmt: skip
        first = first - 65536 if first > 32767 else first
        stored = instance.pixels.astype(int)
        expected = entries[np.clip(stored - first, 0, (count or 65536) - 1)]
        assert (modality_lut(stored.astype(float), instance.grey) == expected).all()
        assert bits in (8, 16)


@trap("LINEAR window", "7e8a4a652e11", "68ecc2235488", "63984e7f9e96")
def _linear(files):
    instance, header = files.image("7e8a4a652e11"), files.header("7e8a4a652e11")
    x = modality_lut(instance.pixels.astype(float), instance.grey)
    c, w = float(header.WindowCenter), float(header.WindowWidth)
    expected = np.clip((x - (c - 0.5)) / (w - 1) + 0.5, 0, 1)
    assert np.abs(files.levels("7e8a4a652e11") - expected * 255).max() <= 0.5001
    assert set(np.unique(files.levels("68ecc2235488"))) == {0, 255}  # w = 1
    assert files.levels("63984e7f9e96").max() == 255  # w = 0 is no window


@trap("LINEAR_EXACT", "0c38b3338a94")
def _linear_exact(files):
    instance = files.image("0c38b3338a94")
    window = instance.grey.window
    assert window.function == "LINEAR_EXACT"
    x = modality_lut(instance.pixels.astype(float), instance.grey)
    expected = np.clip((x - window.centre) / window.width + 0.5, 0, 1)
    assert np.abs(files.levels("0c38b3338a94") - expected * 255).max() <= 0.5001


@trap("SIGMOID", "549400d846ec", "6fe21a010f9f")
def _sigmoid(files):
    assert files.image("6fe21a010f9f").grey.window.function == "SIGMOID"
    instance = files.image("549400d846ec")
    window = instance.grey.window
    x = modality_lut(instance.pixels.astype(float), instance.grey)
    expected = 1 / (1 + np.exp(-4 * (x - window.centre) / window.width))
    assert np.abs(files.levels("549400d846ec") - expected * 255).max() <= 0.5001


@trap("Several windows", "857c229fd4b1", "3b1195f823c3")
def _several_windows(files):
    for name in TRAPS["Several windows"][0]:
        instance, header = files.image(name), files.header(name)
        assert "several windows: the first is taken" in instance.warnings
        first = (float(header.WindowCenter[0]), float(header.WindowWidth[0]))
        assert (instance.grey.window.centre, instance.grey.window.width) == first


@trap("VOI LUT and window together", "156126c2e600", "6fe21a010f9f")
def _voi_lut_first(files):
    for name in TRAPS["VOI LUT and window together"][0]:
        instance = files.image(name)
        table = instance.grey.voi_lut
        assert instance.grey.window is not None
        x = modality_lut(instance.pixels.astype(float), instance.grey)
        expected = table.entries[np.clip(x - table.first, 0, len(table.entries) - 1).astype(int)]
        assert np.abs(files.levels(name) - expected / table.top * 255).max() <= 0.5001


@trap("LUT descriptor", "b4b42949d324", "ea3b62d7dc2a")
def _lut_descriptor(files):
    assert len(files.image("b4b42949d324").grey.voi_lut.entries) == 65536
    shown = files.levels("ea3b62d7dc2a")
    assert (shown.min(), shown.max()) == (0, 255)


@trap("A window is a display choice", "7e8a4a652e11", "4d3b74695811")
def _display_choice(files):
    instance = files.image("7e8a4a652e11")
    other = replace(instance, grey=replace(instance.grey, window=None, voi_lut=None))
    for window in ("range", "percentile"):
        recipe = Contract(name="r", grey=Grey(window=window))
        assert (prepare(instance, recipe).pixels == prepare(other, recipe).pixels).all()
    # the recipe is the same straight line for every pixel: no second stretch after it
    film = files.image("4d3b74695811")
    window = settled(film)
    low, high = np.percentile(film.pixels[:: max(1, film.pixels.size >> 20)], (0.5, 99.5), method="nearest")  # fmt: skip
    assert (window.centre - 0.5, window.width - 1) == ((low + high) / 2, high - low)


@trap("PALETTE COLOR", "c6f5b60e1711", "d9bb21971715", "33ab2725265b")
@trap("Segmented palette", "66d20d7e5f0a", "f1a2d5f7c4ff")
def _palettes(files):
    for name in (*TRAPS["PALETTE COLOR"][0], *TRAPS["Segmented palette"][0]):
        header = files.header(name)
        if not getattr(header.file_meta, "TransferSyntaxUID", None):
            header.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        theirs = apply_color_lut(header.pixel_array, header)
        theirs = theirs >> 8 if theirs.dtype == np.uint16 else theirs
        assert (files.image(name).pixels == theirs).all(), name


@trap("YBR_FULL / _422 uncompressed", "62d471cff254", "91f9b32a5cd1")
def _ybr(files):
    plain = files.image(PARROT).pixels.astype(int)
    assert np.abs(files.image("62d471cff254").pixels - plain).mean() <= 2
    assert np.abs(files.image("91f9b32a5cd1").pixels - plain).mean() <= 8


@trap("Header and JPEG disagree", "37757f88cc30", "0c7290e3f67b", "ad3c5a7a1b61", "833d7c17c1b5")
def _jpeg_wins(files):
    plain = files.image(PARROT).pixels.astype(int)
    for name in ("37757f88cc30", "ad3c5a7a1b61", "833d7c17c1b5"):
        assert np.abs(files.image(name).pixels - plain).mean() <= 8, name
    # teeth and gums, RGB in the header, YCbCr and JFIF in the stream: red they must be
    red, green, blue = files.image("0c7290e3f67b").pixels.reshape(-1, 3).mean(axis=0)
    assert red > green + 30
    assert abs(green - blue) < 15


@trap("Header RGB, JPEG has no JFIF/Adobe marker and really is RGB", "0c9a6d9fea4e")
def _unmarked_rgb(files):
    assert files.image("0c9a6d9fea4e").pixels.reshape(-1, 3).mean(axis=0).min() > 130


@trap("YBR_ICT/RCT vs RGB in J2K", "50b32176bb73", "d3973704bb9e")
def _j2k_colour(files):
    plain = files.image(PARROT).pixels
    for name in TRAPS["YBR_ICT/RCT vs RGB in J2K"][0]:
        assert (files.image(name).pixels == plain).all(), name


@trap("Planar configuration 1", "116a585a04ad", "16bfc3134e59")
def _planar(files):
    for name in TRAPS["Planar configuration 1"][0]:
        header = files.header(name)
        whole = np.frombuffer(header.PixelData, np.uint8)[: header.Rows * header.Columns * 3]
        planes = whole.reshape(3, header.Rows, header.Columns)
        expected = np.moveaxis(planes, 0, -1) if header.PlanarConfiguration == 1 else whole.reshape(header.Rows, header.Columns, 3)  # fmt: skip
        assert (files.image(name).pixels == expected).all()
    assert files.header("16bfc3134e59").PlanarConfiguration == 1


@trap(
    "BitsStored < BitsAllocated, junk or overlay in high bits",
    "654df0779faf",
    "dd72a7f08855",
    "9c65b39df55d",
)
def _high_bits(files):
    for name in ("654df0779faf", "dd72a7f08855", "9c65b39df55d"):
        header, instance = files.header(name), files.image(name)
        bits, signed = header.BitsStored, header.PixelRepresentation == 1
        words = np.frombuffer(header.PixelData, "<u2").astype(int)
        kept = words >> (header.HighBit - bits + 1) & ((1 << bits) - 1)
        if signed:
            kept = np.where(kept >> (bits - 1), kept - (1 << bits), kept)
        assert (instance.pixels.ravel() == kept[: instance.pixels.size]).all(), name


@trap("Sign of the stream ≠ PixelRepresentation", "2df92c523d36", "e18ef9fab4a4", "06359330f741")
def _signs(files):
    # a CT of 13 bits: air is far below 0, and nothing wraps to the top
    assert files.image("2df92c523d36").pixels.min() < 0
    assert files.image("06359330f741").pixels.min() < 0
    unsigned = files.image("e18ef9fab4a4").pixels
    assert unsigned.min() >= 0
    assert unsigned.max() < 1 << 16


@trap("Pixel padding value (+ range limit)", "193508bc0d23", "8d5d503fd46b")
def _padding(files):
    instance = files.image("193508bc0d23")
    padded = (instance.pixels >= -2048) & (instance.pixels <= -2000)
    shown = files.levels("193508bc0d23", "range")
    assert padded.any()
    assert (shown[padded] == 0).all()
    assert (shown[~padded].min(), shown[~padded].max()) == (0, 255)
    lossy = files.image("8d5d503fd46b")
    assert lossy.grey.padding == (-2000.0, -2000.0)


@trap("Float / double pixel data", "957f34397c26", "a41e0b78b05e")
def _floats(files):
    single, double = files.image("957f34397c26").pixels, files.image("a41e0b78b05e").pixels
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    assert np.abs(single - double).max() < 1e-6
    assert files.levels("957f34397c26", "range").max() == 255


@trap("Multi-frame", "2f83e3a2ef0d", "ee1fcf71fecb")
def _frames(files):
    every = Contract(name="e", accept=Accept(frames="every"))
    for name in TRAPS["Multi-frame"][0]:
        header = files.header(name)
        count = int(header.NumberOfFrames)
        images = list(instances(files.data(name), every))
        assert [image.frame for image in images] == list(range(count))
        middle = files.image(name, Contract(name="m", accept=Accept(frames="middle")))
        assert (middle.pixels == images[count // 2].pixels).all()
        assert (files.image(name).pixels == images[0].pixels).all()
    by_class = Accept(frames="refuse", frames_by_class={str(header.SOPClassUID): "middle"})
    assert files.image(name, Contract(name="c", accept=by_class)).frame == count // 2


@trap("Enhanced objects", "094059ada0ce", "202419bfe9d9")
def _functional_groups(files):
    for name, centre, width in (("094059ada0ce", 1, 2), ("202419bfe9d9", 108, 216)):
        assert "WindowCenter" not in files.header(name)
        window = files.image(name).grey.window
        assert (window.centre, window.width) == (centre, width)


@trap("Pixel aspect ratio / anisotropic spacing", "9aa9b3711d68", "16bfc3134e59")
def _aspects(files):
    for name, aspect in (("9aa9b3711d68", 2.0), ("16bfc3134e59", 4 / 3)):
        _, _, height, width = prepare(files.image(name), files.contract).region
        assert height * aspect == pytest.approx(width, rel=0.02)


@trap(
    "Empty or wrong offset table, several fragments a frame",
    "1904085af52e",
    "78ee739afc8e",
    "4834ad62fb6e",
    "218356eb8b36",
)
def _fragments(files):
    ramp = files.image(RAMP).pixels
    for name in ("1904085af52e", "78ee739afc8e"):
        assert (files.image(name).pixels == ramp).all()
    assert (files.image("4834ad62fb6e").pixels == files.image("218356eb8b36").pixels).all()


@trap("Embedded sequence delimiter bytes in a stream", "b1fd9301d9d0")
def _delimiter_bytes(files):
    # lengths are followed, so all of the stream is there; it contradicts itself all the same
    assert files.code("b1fd9301d9d0") == "CORRUPT"


@trap("Codestream differs from UID", "fa4b62ab3535", "1880c0e68c82", "aae4c32a21bb")
def _sniffed(files):
    assert "the codestream is jpeg" in files.image("fa4b62ab3535").warnings
    assert "the codestream is jpeg-ls" in files.image("1880c0e68c82").warnings
    assert (files.image("1880c0e68c82").pixels == files.image(RAMP).pixels).all()
    assert files.image("aae4c32a21bb").pixels.shape == (512, 512)


@trap("Codestream precision ≠ BitsStored", "5d38cc99dbd0", "64ae1392d6d2")
def _precision(files):
    for name in TRAPS["Codestream precision ≠ BitsStored"][0]:
        instance, header = files.image(name), files.header(name)
        assert instance.pixels.max() < 1 << header.BitsStored
        # a value that wrapped around would stand alone among much larger ones
        pixels = instance.pixels.astype(int)
        top = (1 << header.BitsStored) - 1
        bright = pixels[1:-1, 1:-1] < top // 8
        around = np.minimum(pixels[:-2, 1:-1], pixels[2:, 1:-1])
        assert not (bright & (around > top * 0.95)).any()


@trap("Encapsulated data under an uncompressed UID", "91317e44b82b")
def _encapsulated(files):
    assert (files.image("91317e44b82b").pixels == files.image(RAMP).pixels).all()


@trap("Implicit VR in a file that claims explicit, and back", "ebbd154c705b", "382931a0c6f7")
def _wrong_vr(files):
    first, second = files.image("ebbd154c705b"), files.image("382931a0c6f7")
    assert (first.pixels == second.pixels).all()
    for instance in (first, second):
        assert "the header is not written as the transfer syntax says" in instance.warnings


@trap("No preamble / no file meta", "ee3da313f01d")
def _no_meta(files):
    instance = files.image("ee3da313f01d")
    assert instance.warnings[0] == "no preamble"
    assert (instance.pixels == files.image("cd42cef23503").pixels).all()


@trap("Odd lengths, 4-GB claims", "a8bcadf503fe")
def _claims(files):
    assert files.code("a8bcadf503fe") == "TOO_LARGE"


@trap("Big endian", "b316df65a66d", "0cf6b4b04a1f")
def _big_endian(files):
    assert (files.image("b316df65a66d").pixels == files.header("b316df65a66d").pixel_array).all()
    # indices of 8 bits in words: swapped, neighbours change places and edges fray
    pixels = files.image("0cf6b4b04a1f").pixels.astype(int)
    odd, even = np.abs(np.diff(pixels[..., 0], axis=1))[:, ::2], np.abs(np.diff(pixels[..., 0], axis=1))[:, 1::2]  # fmt: skip
    assert odd.mean() == pytest.approx(even.mean(), rel=0.2)


@trap("Character sets", "5065bb5c8e55", "f07d6193310e")
def _character_sets(files):
    assert files.image("5065bb5c8e55").pixels.shape == (32, 32)
    # this one ends before its pixels: what matters is that its names don't raise on the way
    assert files.code("f07d6193310e") == "TRUNCATED"


@trap("Private tags", "a723a083e446")
def _private_tags(files):
    instance = files.image("a723a083e446")
    told = (instance.modality, instance.view, instance.device, *instance.warnings)
    private = {str(e.value) for e in files.header("a723a083e446") if e.tag.is_private}
    assert len(private) > 40
    assert not {value for value in private if len(value) > 2} & set(told)


@trap("Burned-in text", "469e8b7e4f21", "e20c4ba29df1")
def _burned_in(files):
    for name in TRAPS["Burned-in text"][0]:
        assert files.header(name).BurnedInAnnotation == "YES"
        assert "the header says that text is burned in" in files.image(name).warnings


@trap("Not an image", "e2cd9a9a3857", "754578c7c8db")
def _not_an_image(files):
    assert files.code("e2cd9a9a3857") == "NOT_AN_IMAGE"
    assert files.code("754578c7c8db") == "NO_DECODER"


@trap("Bad header value", "52ececba7e72")
def _bad_value(files):
    # its padding value is text of three parts; the file has no pixels besides
    assert files.code("52ececba7e72") == "TRUNCATED"


@pytest.mark.parametrize("title", TRAPS)
def test_trap(title, files):
    names, check = TRAPS[title]
    for name in names:
        assert (files.folder / f"{name}.dcm").is_file()
    check(files)


def test_every_row_of_the_notes_is_here(shared_dicom):
    page = shared_dicom.parents[1] / "reference/dicom-in-the-wild.md"
    if not page.is_file():
        pytest.skip("needs ../shared/reference/dicom-in-the-wild.md")
    part = page.read_text(encoding="utf-8").split("## (b) Traps")[1].split("\n## ")[0]
    rows = [line.split("|") for line in part.splitlines() if line.startswith("|")][2:]
    titles = {row[1].strip().split(" (RGB over")[0] for row in rows}
    assert titles == set(TRAPS)
