"""Wraps drawn pixels as files: DICOM Ophthalmic Photography 8 Bit, JPEG or PNG, same bytes every time.

The attributes are those of PS3.3 A.41 (Ophthalmic Photography 8 Bit Image IOD) of type 1 and 2.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import JPEGBaseline8Bit, OphthalmicPhotography8BitImageStorage, generate_uid

from data_schemas.terms import Laterality


@dataclass(frozen=True, slots=True)
class Phantom:
    """The made-up patient module of a drawn DICOM file: all of it must be gone after ingestion."""

    name: str
    identifier: str
    birth_date: str
    sex: str
    study_date: str


def as_jpeg(pixels: NDArray[np.uint8], *, quality: int, subsampling: str = "4:2:0") -> bytes:
    """Encode RGB ``[H, W, 3]`` as baseline JPEG (JFIF, YCbCr)."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=subsampling)
    return stream.getvalue()


def as_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode ``[H, W, 3]`` or ``[H, W]`` as PNG, quickly rather than small."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def as_dicom(
    pixels: NDArray[np.uint8],
    phantom: Phantom,
    laterality: Laterality,
    *,
    quality: int,
    entropy: str,
) -> bytes:
    """Encode RGB ``[H, W, 3]`` as a DICOM file with one JPEG baseline frame, YBR_FULL_422.

    Parameters
    ----------
    entropy
        What the UIDs are derived from; the study's UIDs from its first word only, so that both
        eyes of a patient share a study and a series.
    """
    frame = as_jpeg(pixels, quality=quality, subsampling="4:2:2")
    study = entropy.split()[0]
    dataset = Dataset()
    dataset.SOPClassUID = OphthalmicPhotography8BitImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["instance", entropy])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study", study])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series", study])
    dataset.SynchronizationFrameOfReferenceUID = generate_uid(entropy_srcs=["clock", study])
    _patient_and_study(dataset, phantom, number=1 if laterality == "R" else 2)
    _equipment(dataset)
    _acquisition(dataset, laterality)
    _pixels(dataset, frame, (pixels.shape[0], pixels.shape[1]), pixels.nbytes / len(frame))
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta = meta
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _patient_and_study(dataset: Dataset, phantom: Phantom, number: int) -> None:
    dataset.PatientName = phantom.name
    dataset.PatientID = phantom.identifier
    dataset.PatientBirthDate = phantom.birth_date
    dataset.PatientSex = phantom.sex
    dataset.StudyDate = dataset.ContentDate = phantom.study_date
    dataset.StudyTime = dataset.ContentTime = f"1012{10 * number:02d}"
    dataset.AcquisitionDateTime = dataset.ContentDate + dataset.ContentTime
    dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""
    dataset.StudyID = "1"
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = number


def _equipment(dataset: Dataset) -> None:
    dataset.Modality = "OP"
    dataset.Manufacturer = "hilum"
    dataset.ManufacturerModelName = "phantom fundus camera"
    dataset.DeviceSerialNumber = "0"
    dataset.SoftwareVersions = "1"
    dataset.SynchronizationTrigger = "NO TRIGGER"
    dataset.AcquisitionTimeSynchronized = "N"
    dataset.DetectorType = "CMOS"
    dataset.AcquisitionDeviceTypeCodeSequence = _code("409898007", "Fundus Camera")
    dataset.IlluminationTypeCodeSequence = Sequence()
    dataset.LightPathFilterTypeStackCodeSequence = Sequence()
    dataset.ImagePathFilterTypeStackCodeSequence = Sequence()
    dataset.LensesCodeSequence = Sequence()


def _acquisition(dataset: Dataset, laterality: Laterality) -> None:
    dataset.ImageLaterality = laterality
    dataset.AnatomicRegionSequence = _code("5665001", "Retina")
    dataset.AcquisitionContextSequence = Sequence()
    dataset.PatientEyeMovementCommanded = "NO"
    dataset.HorizontalFieldOfView = 45.0
    dataset.EmmetropicMagnification = None
    dataset.IntraOcularPressure = None
    dataset.RefractiveStateSequence = Sequence()
    dataset.PupilDilated = "NO"


def _pixels(dataset: Dataset, frame: bytes, shape: tuple[int, int], ratio: float) -> None:
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "", "COLOR"]
    dataset.PatientOrientation = ["L", "F"]
    dataset.BurnedInAnnotation = "NO"
    dataset.Rows, dataset.Columns = shape
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    # the multi-frame module is mandatory even for one frame
    dataset.NumberOfFrames = 1
    dataset.FrameIncrementPointer = Tag(0x0018, 0x1063)
    dataset.FrameTime = "0"
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionRatio = f"{ratio:.2f}"
    dataset.LossyImageCompressionMethod = "ISO_10918_1"
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"


def _code(value: str, meaning: str) -> Sequence:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", meaning
    return Sequence([code])
