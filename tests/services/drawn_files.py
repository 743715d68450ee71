"""Files that the tests of the service send: a drawn photograph in several formats, and broken ones."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, OphthalmicPhotography8BitImageStorage, generate_uid

PATIENT = "Muster^Erika"
PATIENT_ID = "MRN-4711-0815"


def fundus(seed=0, side=480):
    """Return an orange disc with vessels and a bright spot on black, uint8 [side, side, 3]."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    radius = np.hypot(x, y)
    grain = generator.normal(0, 6, (side, side))
    shade = 1 - 0.8 * radius
    vessels = np.zeros((side, side))
    for _ in range(8):
        angle, bend = generator.uniform(0, np.pi), generator.uniform(-2, 2)
        along = x * np.cos(angle) + y * np.sin(angle)
        across = -x * np.sin(angle) + y * np.cos(angle) + bend * along**2 / 2
        vessels = np.maximum(vessels, np.exp(-((across / 0.008) ** 2)))
    disc = np.exp(-((((x - 0.2) / 0.06) ** 2 + (y / 0.07) ** 2) ** 2))
    red = 190 * shade + 50 * disc - 70 * vessels + grain
    green = 95 * shade + 110 * disc - 60 * vessels + grain
    blue = 45 * shade + 70 * disc - 20 * vessels + grain
    pixels = np.stack([red, green, blue], axis=-1) * (radius < 0.47)[..., None]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def ct_slice():
    """Return pydicom's CT slice: a sound DICOM object, but no photograph."""
    return Path(get_testdata_file("CT_small.dcm", read=False)).read_bytes()


def encoded(pixels, kind="JPEG"):
    """Return ``pixels`` as a file of this kind."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return stream.getvalue()


def dicom(pixels, **changes):
    """Return ``pixels`` as an ophthalmic photograph (8 bit, RGB) with a patient module."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = OphthalmicPhotography8BitImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["drawn"])
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientName, dataset.PatientID = PATIENT, PATIENT_ID
    dataset.Modality, dataset.ImageLaterality = "OP", "L"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
    dataset.PhotometricInterpretation = "RGB"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes()
    for name, value in changes.items():
        setattr(dataset, name, value)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def png_of_zeros(width, height):
    """Return a valid RGB PNG of this size, all black, without ever holding its pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(1)
    row = bytes(1 + 3 * width)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )
