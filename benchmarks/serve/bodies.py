"""Real request bodies, made from photographs once and kept: JPEG and PNG, small and large, and DICOM."""

import io
from pathlib import Path

import numpy as np
from network import PHOTOGRAPHS, jpeg_of, photographs
from PIL import Image, ImageOps

EACH = 6
"""Different files of each kind, sent in turn."""

KINDS = {
    "jpeg512": "512 px JPEG",
    "jpeg6mp": "6-megapixel JPEG",
    "png512": "512 px PNG",
    "png6mp": "6-megapixel PNG",
    "dicom8mb": "2048 x 2048 16-bit DICOM",
}


def bodies(out: Path, kind: str) -> list[Path]:
    """Return the files of one kind, made at the first call."""
    folder = out / "bodies" / kind
    if not folder.is_dir():
        part = folder.with_name(f".{kind}.part")
        part.mkdir(parents=True, exist_ok=True)
        large = kind in ("jpeg6mp", "png6mp", "dicom8mb")
        sources = sorted((PHOTOGRAPHS / "full_size").glob("*.jpg")) if large else _small()
        for number, source in enumerate(sources[:EACH]):
            suffix = {"jpeg": "jpg", "png5": "png", "png6": "png"}.get(kind[:4], "dcm")
            (part / f"{number}.{suffix}").write_bytes(_made(kind, Image.open(source)))
        part.rename(folder)
    return sorted(folder.iterdir())


def _small() -> list[Path]:
    return [file for file, _ in photographs(test=True)]


def _made(kind: str, photograph: Image.Image) -> bytes:
    if kind == "dicom8mb":
        return _dicom(ImageOps.pad(photograph.convert("L"), (2048, 2048)))
    image = square(photograph) if kind.endswith("512") else photograph.resize((3000, 2000))
    if kind.startswith("jpeg"):
        return jpeg_of(image)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def square(photograph: Image.Image) -> Image.Image:
    """Return the middle of a photograph, 512 x 512: the field of view is about as wide as it is high."""
    return ImageOps.fit(photograph, (512, 512), Image.Resampling.LANCZOS)


def _dicom(grey: Image.Image) -> bytes:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    made = FileDataset(stream, {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID = meta.MediaStorageSOPClassUID
    made.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.Modality, made.PatientID, made.PatientName = "OT", "", ""
    made.Rows, made.Columns = grey.size[::-1]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
    made.PixelRepresentation = 0
    chance = np.random.default_rng(0)
    # twelve bits: what eight lack is noise, as in a detector
    values = np.asarray(grey).astype(np.uint16) * 16
    made.PixelData = (values + chance.integers(0, 16, values.shape, np.uint16)).tobytes()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
