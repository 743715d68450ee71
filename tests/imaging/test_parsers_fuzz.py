"""Whatever the bytes: an Instance, or an ImageError with a known code. Nothing else, ever."""

import io

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from data_schemas.contract import Accept, Contract, Limits
from data_schemas.dataset import REFUSALS
from data_schemas.errors import ImageError
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import read

CONTRACT = Contract(
    name="fuzz", accept=Accept(frames="first"), limits=Limits(pixels=1_000_000), size=16
)
QUIET = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
STARTS = [b"", b"RIFF\xff\0\0\0WEBPVP8L", b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\x00", b"MM\x00*", bytes(128) + b"DICM", b"\x08\x00\x05\x00CS"]  # fmt: skip


def check_ends_as_an_answer(data: bytes) -> None:
    answer = "image"
    try:
        instance = read(data, CONTRACT)
        assert prepare(instance, CONTRACT).pixels.shape == (16, 16, 3)
    except ImageError as error:
        answer = error.code if error.what else "an error without words"
    assert answer in {"image", *REFUSALS}


def _saved(form: str, **options) -> bytes:
    rows, columns = np.mgrid[0:24, 0:32]
    array = np.stack([rows * 9, columns * 7, rows + columns], -1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, form, **options)
    return stream.getvalue()


def _dicom(syntax: str, value: bytes, bits: int = 16) -> bytes:
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    header.Modality, header.PatientID = "CT", "X1"
    header.Rows, header.Columns, header.SamplesPerPixel = 24, 32, 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = bits
    header.HighBit, header.PixelRepresentation = bits - 1, 0
    header.WindowCenter, header.WindowWidth = 100, 200
    header.PixelData = value
    header["PixelData"].VR = "OB" if bits == 8 else "OW"
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = UID(syntax)
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _seeds() -> dict[str, bytes]:
    deep = (np.mgrid[0:24, 0:32].sum(axis=0) * 40).astype(np.uint16)
    ls = encapsulate([imagecodecs.jpegls_encode(deep)])
    j2k = encapsulate([imagecodecs.jpeg2k_encode(deep, codecformat="j2k", reversible=True)])
    jxl = encapsulate([imagecodecs.jpegxl_encode(deep, lossless=True)])
    jpeg = encapsulate([imagecodecs.jpeg8_encode(deep.astype(np.uint8))])
    return {
        "jpeg": _saved("JPEG"),
        "progressive": _saved("JPEG", progressive=True),
        "png": _saved("PNG"),
        "tiff": _saved("TIFF"),
        "lzw tiff": _saved("TIFF", compression="tiff_lzw"),
        "jpeg 2000 file": _saved("JPEG2000"),
        "lossy webp": _saved("WEBP"),
        "lossless webp": _saved("WEBP", lossless=True),
        "raw": _dicom("1.2.840.10008.1.2.1", deep.tobytes()),
        "implicit": _dicom("1.2.840.10008.1.2", deep.tobytes()),
        "jpeg-ls": _dicom("1.2.840.10008.1.2.4.80", ls),
        "jpeg 2000": _dicom("1.2.840.10008.1.2.4.90", j2k),
        "jpeg xl": _dicom("1.2.840.10008.1.2.4.90", jxl),  # pydicom has no UID for it
        "jpeg in dicom": _dicom("1.2.840.10008.1.2.4.50", jpeg, 8),
    }


SEEDS = _seeds()


@pytest.mark.parametrize("name", SEEDS)
def test_the_seeds_themselves_are_images(name):
    assert read(SEEDS[name], CONTRACT).pixels.shape[:2] == (24, 32)


@QUIET
@given(st.sampled_from(STARTS), st.binary(max_size=600))
def test_random_bytes(start, tail):
    check_ends_as_an_answer(start + tail)


@QUIET
@given(st.sampled_from(sorted(SEEDS)), st.floats(0, 1))
def test_cut_anywhere(name, share):
    seed = SEEDS[name]
    check_ends_as_an_answer(seed[: int(share * len(seed))])


@QUIET
@given(
    st.sampled_from(sorted(SEEDS)),
    st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_bytes_changed_anywhere(name, changes):
    data = bytearray(SEEDS[name])
    for share, value in changes:
        data[int(share * len(data))] = value
    check_ends_as_an_answer(bytes(data))


@QUIET
@given(st.sampled_from(sorted(SEEDS)), st.floats(0, 1), st.binary(min_size=1, max_size=40))
def test_bytes_put_in_anywhere(name, share, extra):
    seed = SEEDS[name]
    at = int(share * len(seed))
    check_ends_as_an_answer(seed[:at] + extra + seed[at:])
