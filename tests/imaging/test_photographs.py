"""JPEG, PNG and TIFF photographs against Pillow as the second opinion, and their refusals."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from data_schemas.contract import Accept, Contract, Grey, Limits
from data_schemas.errors import ImageError
from pipeline.imaging.colour import display_levels
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import instances, read
from pipeline.imaging.sniff import format_of


@pytest.fixture
def scene() -> np.ndarray:
    rows, columns = np.mgrid[0:48, 0:80]
    return np.stack([rows * 5, columns * 3, (rows + columns) * 2], -1).astype(np.uint8)


def code_of(data: bytes, contract: Contract) -> str:
    with pytest.raises(ImageError) as caught:
        read(data, contract)
    return caught.value.code


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_as_pillow_turns_it(orientation, scene, picture_bytes, anything):
    exif = Image.Exif()
    exif[274] = orientation
    data = picture_bytes(scene, "JPEG", quality=95, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    pixels = read(data, anything).pixels
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 2
    assert (pixels.shape[0] > pixels.shape[1]) == (orientation >= 5)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_png_and_tiff_orientation(orientation, scene, picture_bytes, anything):
    exif = Image.Exif()
    exif[274] = orientation
    png = picture_bytes(scene, "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(png))))
    assert (read(png, anything).pixels == expected).all()
    tiff = picture_bytes(scene, "TIFF", tiffinfo={274: orientation})
    assert (read(tiff, anything).pixels == expected).all()


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 2}, {"quality": 30}]
)
def test_jpeg_kinds(options, scene, picture_bytes, anything):
    data = picture_bytes(scene, "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(read(data, anything).pixels.astype(int) - expected).max() <= 3


def test_cmyk_jpeg_has_the_right_colours(scene, anything):
    stream = io.BytesIO()
    Image.fromarray(scene).convert("CMYK").save(stream, "JPEG", quality=95)
    data = stream.getvalue()
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(read(data, anything).pixels.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_png_modes(mode, scene, anything):
    stream = io.BytesIO()
    picture = Image.fromarray(scene).convert(mode)
    picture.save(stream, "PNG")
    expected = np.asarray(picture.convert("L" if mode in ("L", "1") else "RGB"))
    pixels = read(stream.getvalue(), anything).pixels
    assert (pixels == expected).all()


def test_alpha_lies_over_black(scene, picture_bytes, anything):
    alpha = np.full(scene.shape[:2], 255, np.uint8)
    alpha[:, :40] = 0
    instance = read(picture_bytes(np.dstack([scene, alpha]), "PNG"), anything)
    assert (instance.pixels[:, :40] == 0).all()
    assert (instance.pixels[:, 40:] == scene[:, 40:]).all()
    assert instance.warnings


def test_grey_png_of_16_bits(picture_bytes, anything):
    deep = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    instance = read(picture_bytes(deep, "PNG"), anything)
    assert (instance.pixels == deep).all()
    assert instance.grey.bits == 16


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_tiff_compressions(compression, scene, picture_bytes, anything):
    data = picture_bytes(scene, "TIFF", compression=compression)
    assert (read(data, anything).pixels == scene).all()


def test_tiff_pages_follow_the_frames_rule(scene, anything):
    stream = io.BytesIO()
    pages = [Image.fromarray(scene), Image.fromarray(scene[::-1])]
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:])
    assert (read(stream.getvalue(), anything).pixels == scene).all()
    assert code_of(stream.getvalue(), Contract(name="single")) == "MULTIFRAME"


def tiff_pages(*pages: tuple[np.ndarray, dict]) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for array, options in pages:
            writer.write(array, contiguous=False, metadata=None, **options)
    return stream.getvalue()


def test_every_page_of_a_tiff_has_facts_of_its_own(scene):
    grey = scene[..., 0]
    turned = {"photometric": "miniswhite", "extratags": [(274, 3, 1, 3, True)]}
    data = tiff_pages((scene, {"photometric": "rgb"}), (255 - grey, turned))
    every = Contract(name="every", accept=Accept(frames="every"))
    second = read(data, every, 1)
    assert (display_levels(second, Grey(window="header")) == grey[::-1, ::-1]).all()
    colour = every.model_copy(update={"accept": Accept(frames="every", colour="required")})
    first, refusal = instances(data, colour)
    assert (first.pixels == scene).all()
    assert refusal.code == "NOT_COLOUR"
    small = every.model_copy(update={"limits": Limits(side_px=100)})
    wide = tiff_pages((grey, {}), (np.zeros((2, 200), np.uint8), {}))
    assert [getattr(one, "code", "") for one in instances(wide, small)] == ["", "TOO_LARGE"]


@pytest.mark.parametrize("white", [0, 1])
def test_a_bilevel_tiff_is_black_and_white(white, scene, picture_bytes, anything):
    drawn = scene[..., 0] > 100
    data = picture_bytes(drawn, "TIFF", compression="group4", tiffinfo={262: white})
    shown = display_levels(read(data, anything), Grey(window="header"))
    assert (shown == np.where(drawn, 255, 0)).all()
    assert set(np.unique(prepare(read(data, anything), anything).pixels)) >= {0, 255}


def test_a_reduced_page_is_no_picture_of_its_own(scene):
    data = tiff_pages((scene, {}), (scene[::4, ::4], {"subfiletype": 1}), (scene[::-1], {}))
    every = Contract(name="every", accept=Accept(frames="every"))
    found = list(instances(data, every))
    assert [one.frame for one in found] == [0, 1]
    assert (found[1].pixels == scene[::-1]).all()
    alone = tiff_pages((scene, {}), (scene[::4, ::4], {"subfiletype": 1}))
    assert (read(alone, Contract(name="single")).pixels == scene).all()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_file_cut_off_is_never_a_picture(form, share, picture_bytes, anything):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = picture_bytes(noise, form)
    assert code_of(data[: int(len(data) * share)], anything) in (
        "TRUNCATED",
        "CORRUPT",
        "NOT_AN_IMAGE",
    )
    if form != "TIFF" and share > 0.1:
        assert code_of(data[: int(len(data) * share)], anything) == "TRUNCATED"


def test_grey_where_colour_is_required(scene, picture_bytes, fundus):
    for form in ("JPEG", "PNG", "TIFF"):
        assert code_of(picture_bytes(scene[..., 0], form), fundus) == "NOT_COLOUR"


def test_a_format_the_contract_does_not_take(scene, picture_bytes):
    contract = Contract(name="png only", accept=Accept(formats=("png",)))
    assert code_of(picture_bytes(scene, "JPEG"), contract) == "WRONG_FORMAT"


def _png_claiming(rows: int, columns: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def test_a_claim_of_200_megapixels_costs_nothing(picture_bytes, scene, anything):
    jpeg = bytearray(picture_bytes(scene, "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 14200, 14200)
    tiff = bytearray(picture_bytes(scene, "TIFF"))
    for tag in (256, 257):
        place = tiff.index(struct.pack("<HH", tag, 4)) + 8
        tiff[place : place + 4] = struct.pack("<I", 15000)
    for bomb in (_png_claiming(14200, 14200), bytes(jpeg), bytes(tiff)):
        tracemalloc.start()
        try:
            assert code_of(bomb, anything) == "TOO_LARGE"
            assert tracemalloc.get_traced_memory()[1] < 2 * 2**20 + len(bomb)
        finally:
            tracemalloc.stop()


def test_more_bytes_than_the_contract_allows(scene, picture_bytes):
    contract = Contract(name="small", limits=Limits(file_bytes=100))
    assert code_of(picture_bytes(scene, "PNG"), contract) == "TOO_LARGE"


@pytest.mark.parametrize(
    "junk", [b"", b"\x00", b"hello, world", b"%PDF-1.7 ...", b"PK\x03\x04", bytes(1000)]
)
def test_junk_is_not_an_image(junk, anything):
    assert format_of(junk) is None
    assert code_of(junk, anything) == "NOT_AN_IMAGE"
