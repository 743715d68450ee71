"""Contracts, drawn files and the shared DICOM files."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from data_schemas import settings
from data_schemas.contract import Accept, Contract

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def anything() -> Contract:
    return Contract(name="anything", accept=Accept(frames="first"))


@pytest.fixture(scope="session")
def fundus() -> Contract:
    layer = settings.from_file(ROOT / "configs/contracts/fundus.yaml")
    return settings.resolve(Contract, [layer])


@pytest.fixture(scope="session")
def shared_dicom() -> Path:
    folder = ROOT / "../shared/data/dicom"
    if not (folder / "index.csv").is_file():
        pytest.skip("needs the DICOM files in ../shared/data/dicom")
    return folder


@pytest.fixture(scope="session")
def shared_fundus() -> Path:
    folder = ROOT / "../shared/data/fundus_rahim"
    if not (folder / "labels.csv").is_file():
        pytest.skip("needs the photographs in ../shared/data/fundus_rahim")
    return folder


@pytest.fixture
def picture_bytes():
    """Return a function that encodes an array with Pillow."""

    def encode(array: np.ndarray, form: str, **options) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, form, **options)
        return stream.getvalue()

    return encode


@pytest.fixture
def dicom_bytes():
    """Return a function that writes a small DICOM object with pydicom."""

    def write(pixels: np.ndarray, **changes) -> bytes:
        colour = pixels.ndim == 3
        header = Dataset()
        header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        header.SOPInstanceUID = "1.2.3"
        header.Modality = "OT"
        header.Rows, header.Columns = pixels.shape[:2]
        header.SamplesPerPixel = 3 if colour else 1
        header.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
        if colour:
            header.PlanarConfiguration = 0
        bits = pixels.dtype.itemsize * 8
        header.BitsAllocated = header.BitsStored = bits
        header.HighBit = bits - 1
        header.PixelRepresentation = int(pixels.dtype.kind == "i")
        for keyword, value in changes.items():
            setattr(header, keyword, value)
        header.PixelData = pixels.tobytes()
        header["PixelData"].VR = "OW"
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        stream = io.BytesIO()
        header.save_as(stream, enforce_file_format=True)
        return stream.getvalue()

    return write
