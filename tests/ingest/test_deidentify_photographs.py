"""Photographs keep their pixels and lose everything else."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from data_schemas.contract import Accept, Contract
from data_schemas.errors import ImageError
from pipeline.imaging.read import read
from pipeline.ingest.deidentify.boxes import blank_comments, clean_webp
from pipeline.ingest.deidentify.encapsulated import clean_pixels, clean_stream
from pipeline.ingest.deidentify.icc import clean_profile
from pipeline.ingest.deidentify.photograph import clean_photograph
from tests.ingest import planted

ANY = Contract(
    name="any",
    size=4096,
    accept=Accept(formats=("dicom", "jpeg", "png", "tiff", "jpeg2000", "webp"), frames="first"),
)


def encoded(form, **options):
    out = io.BytesIO()
    Image.fromarray(planted.pixels(3)).save(out, form, **options)
    return out.getvalue()


FILES = {
    "jpeg": lambda: planted.photograph(1),
    "progressive": lambda: planted.commented(planted.jpeg(planted.pixels(1), progressive=True)),
    "restarts": lambda: planted.commented(planted.jpeg(planted.pixels(1), restart_marker_blocks=2)),
    "grey": lambda: planted.commented(planted.jpeg(planted.pixels(1)[..., 0])),
    "cmyk": lambda: planted.commented(encoded_cmyk()),
    "turned": lambda: planted.photograph(1, orientation=6),
    "png": lambda: planted.png(1),
    "palette": lambda: palette_png(),
    "tiff": lambda: planted.tiff(1),
    "tiff lzw": lambda: planted.tiff(1, "tiff_lzw"),
    "tiff jpeg": lambda: planted.tiff(1, "jpeg"),
    "tiff deflate": lambda: planted.tiff(1, "tiff_adobe_deflate"),
    "jp2": lambda: jp2(),
    "webp": lambda: encoded(
        "WEBP", lossless=True, exif=planted.exif(6), xmp=planted.XMP, icc_profile=planted.icc()
    ),  # fmt: skip
    "webp plain": lambda: encoded("WEBP", quality=80),
}


def encoded_cmyk():
    out = io.BytesIO()
    Image.fromarray(planted.pixels(1)).convert("CMYK").save(out, "JPEG", quality=90)
    return out.getvalue()


def palette_png():
    out = io.BytesIO()
    Image.fromarray(planted.pixels(1)).quantize(16).save(out, "PNG", transparency=0)
    whole = out.getvalue()
    return whole + b"AFTER-EOI-SECRET"


def jp2():
    plain = imagecodecs.jpeg2k_encode(planted.pixels(1), codecformat="jp2", level=0)
    xml = b"<name>XMP-CREATOR-HUBERT</name>"
    at = plain.index(b"jp2c") - 4
    return plain[:at] + struct.pack(">I4s", len(xml) + 8, b"xml ") + xml + plain[at:]


@pytest.mark.parametrize("name", FILES)
def test_pixels_stay_and_words_go(name):
    data = FILES[name]()
    clean, _ = clean_photograph(data)
    before, after = read(data, ANY), read(clean, ANY)
    assert np.array_equal(before.pixels, after.pixels)
    assert planted.traces(clean) == set()
    assert len(clean) <= len(data)
    assert clean_photograph(clean)[0] == clean


@pytest.mark.parametrize("name", ["jpeg", "turned", "png", "tiff", "webp"])
def test_the_files_had_words(name):
    assert planted.traces(FILES[name]())


def test_pillow_reads_the_orientation_and_nothing_else():
    clean, _ = clean_photograph(planted.photograph(1, orientation=6))
    assert dict(Image.open(io.BytesIO(clean)).getexif()) == {0x0112: 6}
    plain, _ = clean_photograph(planted.photograph(1))
    assert not Image.open(io.BytesIO(plain)).getexif()


def test_a_jfif_thumbnail_goes():
    plain = planted.jpeg(planted.pixels(1))
    assert plain[2:4] == b"\xff\xe0"
    body = plain[6:18] + b"\x02\x02" + b"SECRETSECRET"
    data = plain[:2] + b"\xff\xe0" + struct.pack(">H", len(body) + 2) + body + plain[20:]
    clean, _ = clean_photograph(data)
    assert b"SECRET" not in clean
    assert clean == clean_photograph(plain)[0]


def test_an_icc_profile_keeps_its_colours_and_loses_its_words():
    made = clean_profile(planted.icc())
    assert "IRMGARD".encode("utf-16-be") not in made
    square = Image.fromarray(planted.pixels(2))
    srgb = ImageCms.createProfile("sRGB")
    results = [
        np.array(ImageCms.profileToProfile(square, io.BytesIO(profile), srgb))
        for profile in (planted.icc(), made)
    ]
    assert np.array_equal(*results)
    assert clean_profile(b"no profile") is None


def test_pages_of_a_tiff_stay_and_reduced_ones_go():
    out = io.BytesIO()
    pages = [Image.fromarray(planted.pixels(k)) for k in range(3)]
    pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:])
    clean, _ = clean_photograph(out.getvalue())
    assert Image.open(io.BytesIO(clean)).n_frames == 3
    assert np.array_equal(imagecodecs.tiff_decode(clean, index=2), planted.pixels(2))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_bigtiff_and_both_byte_orders(big, order):
    tifffile = pytest.importorskip("tifffile")
    out = io.BytesIO()
    grey = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    tifffile.imwrite(out, grey, bigtiff=big, byteorder=order, description="TIFF-DESCRIPTION-OTTILIE")  # fmt: skip
    clean, _ = clean_photograph(out.getvalue())
    assert planted.traces(clean) == set()
    assert np.array_equal(imagecodecs.tiff_decode(clean), grey)


def test_comments_of_a_jpeg_2000_stream_are_blanked_in_place():
    stream = imagecodecs.jpeg2k_encode(planted.pixels(1), codecformat="j2k", level=0)
    at = stream.index(b"\xff\x52")
    words = b"JPEGCOMMENT-730101-1234"
    segment = b"\xff\x64" + struct.pack(">HH", len(words) + 4, 1) + words
    data = stream[:at] + segment + stream[at:]
    clean = blank_comments(data)
    assert words not in clean
    assert len(clean) == len(data)
    assert np.array_equal(imagecodecs.jpeg2k_decode(clean), planted.pixels(1))


def test_jpeg_ls_and_lossless_jpeg_streams():
    grey = planted.pixels(1)[..., 0]
    for stream, decode in (
        (imagecodecs.jpegls_encode(grey), imagecodecs.jpegls_decode),
        (imagecodecs.ljpeg_encode(grey), imagecodecs.ljpeg_decode),
    ):
        words = b"\xff\xfe\x00\x0bSECRETXYZ"
        clean = clean_stream(stream[:2] + words + stream[2:] + b"TAIL")
        assert b"SECRET" not in clean
        assert b"TAIL" not in clean
        assert np.array_equal(decode(clean), grey)


def test_frames_without_metadata_are_not_touched():
    from pydicom.encaps import encapsulate

    frames = [imagecodecs.jpegls_encode(planted.pixels(k)[..., 0]) for k in range(3)]
    value = encapsulate(frames)
    assert clean_pixels(value, 3) == (value, None)
    dirty = encapsulate([planted.commented(planted.jpeg(planted.pixels(k))) for k in range(3)])
    clean, _ = clean_pixels(dirty, 3)
    assert planted.traces(clean) == set()
    assert clean_pixels(clean, 3) == (clean, None)


@pytest.mark.parametrize("name", FILES)
@given(st.data())
def test_any_damage_ends_in_a_copy_or_a_refusal(name, data):
    whole = bytearray(FILES[name]())
    place = data.draw(st.integers(4, len(whole) - 1))
    junk = data.draw(st.binary(max_size=8))
    if data.draw(st.booleans()):
        del whole[place:]
    whole[place : place + len(junk)] = junk
    try:
        clean_photograph(bytes(whole))
    except ImageError as error:
        assert error.code in ("TRUNCATED", "CORRUPT", "NO_DECODER", "NOT_AN_IMAGE")  # noqa: PT017


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(50), b"BM" + bytes(60), b"%PDF-1.7"])
def test_other_formats_are_refused(data):
    with pytest.raises(ImageError) as caught:
        clean_photograph(data)
    assert caught.value.code == "NOT_AN_IMAGE"


def test_an_animated_webp_keeps_its_frames():
    out = io.BytesIO()
    pages = [Image.fromarray(planted.pixels(k)) for k in range(3)]
    pages[0].save(out, "WEBP", save_all=True, append_images=pages[1:], xmp=planted.XMP)
    clean = clean_webp(out.getvalue())
    assert planted.traces(clean) == set()
    assert Image.open(io.BytesIO(clean)).n_frames == 3
