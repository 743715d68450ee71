"""Draws what the benchmark can't ship: a textured fundus photograph and a radiograph."""

import io

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian


def fundus_jpeg(rows: int = 2000, columns: int = 3000) -> bytes:
    """Return a JPEG (quality 92, 4:2:0) of a round field with vessels, a disc and noise on black.

    It has 0.7 bits a pixel; full-size fundus photographs of one hospital have 0.5 to 0.6.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    away = np.hypot(y - rows / 2, x - columns / 2) / (0.49 * rows)
    shade = 0.55 + 0.45 * np.exp(-((away / 0.9) ** 2))
    vessels = np.zeros((rows, columns), np.float32)
    for _ in range(14):
        slope, bend, shift = rng.normal(0, 0.5), rng.normal(0, 3e-4), rng.uniform(-0.4, 0.4) * rows
        path = rows / 2 + shift + slope * (x - columns / 2) + bend * (x - columns / 2) ** 2
        vessels += np.exp(-(((y - path) / rng.uniform(3, 9)) ** 2))
    disc = np.exp(-((np.hypot(y - rows / 2, x - columns * 0.62) / (0.07 * rows)) ** 4))
    light = shade * (1 - 0.35 * np.minimum(vessels, 1)) + 0.4 * disc
    noise = rng.normal(0, 2, (rows, columns, 1)) + rng.normal(0, 0.7, (rows, columns, 3))
    picture = light[..., None] * np.array([185, 95, 45], np.float32) + noise
    picture *= (away < 1)[..., None]
    stream = io.BytesIO()
    pixels = np.clip(picture, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", quality=92, subsampling=2)
    return stream.getvalue()


def radiograph(side: int = 2048) -> bytes:
    """Return an uncompressed DICOM object: 16 bits allocated, 14 stored, a chest's rough shape, noise."""
    rng = np.random.default_rng(1)
    y, x = (np.mgrid[0:side, 0:side] / side).astype(np.float32)
    lungs = np.exp(-(((x - 0.3) / 0.14) ** 4) - ((y - 0.5) / 0.3) ** 4)
    lungs += np.exp(-(((x - 0.7) / 0.14) ** 4) - ((y - 0.5) / 0.3) ** 4)
    ribs = 0.06 * np.sin(60 * (y + 0.3 * (x - 0.5) ** 2))
    body = 9000 - 5500 * lungs + 2500 * ribs + rng.normal(0, 60, y.shape)
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
    header.Modality, header.PhotometricInterpretation = "DX", "MONOCHROME2"
    header.Rows = header.Columns = side
    header.SamplesPerPixel, header.PixelRepresentation = 1, 0
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 14, 13
    header.RescaleSlope, header.RescaleIntercept = 1, 0
    header.WindowCenter, header.WindowWidth = 7000, 9000
    header.PixelData = np.clip(body, 0, (1 << 14) - 1).astype("<u2").tobytes()
    header["PixelData"].VR = "OW"
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
