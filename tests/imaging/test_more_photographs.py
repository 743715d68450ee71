"""JPEG 2000 and WebP photographs, written by Pillow; limits, animation and cuts."""

import io

import numpy as np
import pytest
from PIL import Image

from data_schemas.contract import Accept, Contract, Limits
from data_schemas.errors import ImageError
from pipeline.imaging import webp
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import read


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    rows, columns = np.mgrid[0:60, 0:90]
    return np.stack([rows * 4, columns * 2, (rows + columns) % 256], -1).astype(np.uint8)


def code_of(data: bytes, contract: Contract) -> str:
    with pytest.raises(ImageError) as refused:
        read(data, contract)
    return refused.value.code


def saved(picture: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("options", [{}, {"no_jp2": True}, {"num_resolutions": 1}])
def test_lossless_jpeg_2000(options, scene, picture_bytes, anything):
    found = read(picture_bytes(scene, "JPEG2000", **options), anything)
    assert found.format == "jpeg2000"
    assert (found.pixels == scene).all()


def test_lossy_jpeg_2000(scene, picture_bytes, anything):
    data = picture_bytes(
        scene, "JPEG2000", quality_mode="rates", quality_layers=[20], irreversible=True
    )
    assert np.abs(read(data, anything).pixels.astype(int) - scene).mean() < 12


@pytest.mark.parametrize("mode", ["L", "I;16", "RGBA", "LA"])
def test_jpeg_2000_modes(mode, scene, anything):
    if mode == "I;16":
        deep = (scene[..., 0].astype(np.uint16) * 257).copy()
        found = read(saved(Image.fromarray(deep), "JPEG2000"), anything)
        assert (found.pixels == deep).all()
        assert found.grey.bits == 16
        return
    picture = Image.fromarray(scene).convert(mode)
    found = read(saved(picture, "JPEG2000"), anything)
    plain = np.asarray(picture.convert("L" if mode in ("L", "LA") else "RGB"))
    assert (found.pixels == plain).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_lossless_webp(mode, scene, anything):
    data = saved(Image.fromarray(scene).convert(mode), "WEBP", lossless=True, exact=True)
    found = read(data, anything)
    assert found.format == "webp"
    assert (found.pixels == scene).all()


def test_lossy_webp_and_its_exif(scene, anything):
    exif = Image.Exif()
    exif[274] = 6
    data = saved(Image.fromarray(scene), "WEBP", quality=95, exif=exif)
    found = read(data, anything)
    assert found.pixels.shape == (90, 60, 3)
    turned = np.rot90(scene, -1).astype(int)
    assert np.abs(found.pixels - turned).mean() < 6


def test_alpha_of_webp_lies_over_black(scene, anything):
    alpha = np.dstack([scene, np.where(scene[..., 0] > 100, 255, 0).astype(np.uint8)])
    data = saved(Image.fromarray(alpha), "WEBP", lossless=True, exact=True)
    found = read(data, anything)
    assert (found.pixels[alpha[..., 3] == 0] == 0).all()
    assert found.warnings == ("the alpha channel was laid over black",)


def test_animated_webp_is_not_one_photograph(scene, anything):
    pictures = [Image.fromarray(np.roll(scene, k, axis=1)) for k in range(3)]
    data = saved(pictures[0], "WEBP", save_all=True, append_images=pictures[1:])
    assert webp.header(data).animated
    assert code_of(data, anything) == "MULTIFRAME"


@pytest.mark.parametrize("form", ["WEBP", "JPEG2000"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_cut_off(form, share, scene, anything):
    noisy = np.random.default_rng(1).integers(0, 255, (120, 160, 3)).astype(np.uint8)
    data = saved(Image.fromarray(noisy), form)
    assert code_of(data[: int(len(data) * share)], anything) in {"TRUNCATED", "CORRUPT", "NOT_AN_IMAGE"}  # fmt: skip


@pytest.mark.parametrize("form", ["WEBP", "JPEG2000"])
def test_they_become_what_a_png_becomes(form, scene, picture_bytes, anything):
    options = {"lossless": True} if form == "WEBP" else {}
    mine = prepare(read(picture_bytes(scene, form, **options), anything), anything)
    png = prepare(read(picture_bytes(scene, "PNG"), anything), anything)
    assert (mine.pixels == png.pixels).all()


@pytest.mark.parametrize(("form", "named"), [("WEBP", "webp"), ("JPEG2000", "jpeg2000")])
def test_limits_and_accept_rules(form, named, scene, picture_bytes):
    data = picture_bytes(scene, form)
    assert code_of(data, Contract(name="s", limits=Limits(side_px=80))) == "TOO_LARGE"
    assert code_of(data, Contract(name="f", accept=Accept(formats=("png",)))) == "WRONG_FORMAT"
    grey = saved(Image.fromarray(scene[..., 0]), form)
    required = Contract(name="c", accept=Accept(colour="required"))
    with pytest.raises(ImageError) as refused:
        prepare(read(grey, required), required)
    assert refused.value.code == "NOT_COLOUR"
    assert named in Contract(name="d").accept.formats
