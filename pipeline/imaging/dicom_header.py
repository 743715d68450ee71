"""The part of a DICOM header that the pixel road needs, checked: an :class:`ImageHeader`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from data_schemas.contract import Accept, Contract, Limits
from data_schemas.errors import ImageError
from data_schemas.terms import Laterality
from pipeline.imaging import accept, dicom_facts
from pipeline.imaging import attributes as get
from pipeline.imaging.dicom_grey import grey_facts
from pipeline.imaging.dicom_parse import Parsed, no_pixels
from pipeline.imaging.instance import GreyFacts
from pipeline.imaging.limits import check_claim, check_size
from pipeline.imaging.luts import palette

_GREY = ("MONOCHROME1", "MONOCHROME2")
_SAMPLES = {
    "MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "YBR_FULL": 3,
    "YBR_FULL_422": 3, "YBR_ICT": 3, "YBR_RCT": 3, "YBR_PARTIAL_420": 3, "YBR_PARTIAL_422": 3,
    "ARGB": 4, "CMYK": 4,
}  # fmt: skip
UNSURE = "YBR_FULL or RGB"
_HALF_CHROMA = ("YBR_FULL_422", "YBR_PARTIAL_422")
_ALLOCATED = (1, 8, 12, 16, 32, 64)
_ITEM = b"\xfe\xff\x00\xe0"


@dataclass(frozen=True, slots=True, repr=False)
class ImageHeader:
    """What a header says about one frame's pixels, and the bytes that hold them."""

    rows: int
    columns: int
    samples: int
    frames: int
    frame: int
    photometric: str
    planar: bool
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    kind: str
    """PixelData, FloatPixelData or DoubleFloatPixelData."""
    value: memoryview
    encapsulated: bool
    half_chroma: bool
    """Native, with one Cb and one Cr for two pixels."""
    swap_words: bool
    """8-bit values in big-endian 16-bit words."""
    syntax: str
    little_endian: bool
    offsets: tuple[int, ...]
    palette: tuple[int, NDArray[np.uint8]] | None
    grey: GreyFacts | None
    aspect: float
    modality: str
    laterality: Laterality
    patient_key: str
    instance_key: str
    site_key: str
    study_key: str
    view: str
    device: str
    warnings: tuple[str, ...]


def image_header(parsed: Parsed, contract: Contract, frame: int | None = None) -> ImageHeader:
    """Check a parsed object against the contract and return what decoding needs.

    Parameters
    ----------
    frame
        Index of a frame; ``None``: by the contract's rule.

    Raises
    ------
    ImageError
        NOT_AN_IMAGE, TRUNCATED, CORRUPT, TOO_LARGE, MULTIFRAME, or one of the WRONG_ codes.
    """
    header, pixels = parsed.header, parsed.pixels
    if pixels is None:
        raise no_pixels(parsed)
    if not len(pixels.value):
        raise ImageError("TRUNCATED", "the pixel data are empty")
    modality = _accepted(header, contract.accept)
    warnings = list(parsed.warnings)
    rows, columns, samples, photometric = _shape(header, contract.limits, warnings)
    accept.require_colour(photometric not in _GREY, contract.accept)
    allocated, stored, high_bit, signed = _depth(header, pixels.keyword, warnings)
    encapsulated = bytes(pixels.value[:4]) == _ITEM
    one = (rows * columns * samples * allocated + 7) // 8
    frames = _frames(header, len(pixels.value), 0 if encapsulated else one, warnings)
    if not encapsulated and not parsed.compressed:
        check_claim(one * frames, contract.limits)
    rule = accept.frames_rule(get.text(header, "SOPClassUID"), contract.accept)
    frame = accept.choose_frame(frames, rule, frame)
    if frames > 1:
        warnings.append(f"frame {frame + 1} of {frames}")
    if photometric not in _GREY and get.holds(header, "ICCProfile"):
        warnings.append("the ICC profile is not applied")
    if get.text(header, "BurnedInAnnotation").upper() == "YES":
        warnings.append("the header says that text is burned in")
    little = parsed.little_endian
    view = dicom_facts.view(header, frame)
    accept.require_view(view, contract.accept)
    photometric, half = _layout(
        photometric, (len(pixels.value), one * frames, encapsulated), warnings
    )
    return ImageHeader(
        rows=rows,
        columns=columns,
        samples=samples,
        frames=frames,
        frame=frame,
        photometric=photometric,
        planar=get.integer(header, "PlanarConfiguration") == 1,
        allocated=allocated,
        stored=stored,
        high_bit=high_bit,
        signed=signed,
        kind=pixels.keyword,
        value=pixels.value,
        encapsulated=encapsulated,
        half_chroma=half and allocated == 8,
        swap_words=not little and allocated == 8 and pixels.vr == "OW",
        syntax=parsed.syntax,
        little_endian=little,
        offsets=_extended_offsets(header),
        palette=palette(header, little_endian=little) if photometric == "PALETTE COLOR" else None,
        grey=grey_facts(
            header, frame, pixels.keyword, (stored, signed, little, photometric), warnings
        )
        if photometric in _GREY
        else None,
        aspect=dicom_facts.aspect(header, frame),
        modality=modality,
        laterality=dicom_facts.laterality(header, frame),
        patient_key=get.text(header, "PatientID"),
        instance_key=get.text(header, "SOPInstanceUID"),
        site_key=get.text(header, "InstitutionName"),
        study_key=get.text(header, "StudyInstanceUID"),
        view=view,
        device=dicom_facts.device(header),
        warnings=tuple(warnings),
    )


def _accepted(header: Dataset, rules: Accept) -> str:
    modality = get.text(header, "Modality").upper()
    accept.require_modality(modality, rules)
    intent = get.text(header, "PresentationIntentType").upper()
    accept.require_presentation(intent, rules)
    return modality


def _shape(header: Dataset, limits: Limits, warnings: list[str]) -> tuple[int, int, int, str]:
    rows, columns = get.integer(header, "Rows"), get.integer(header, "Columns")
    if rows is None or columns is None:
        raise ImageError("CORRUPT", "the header has no usable Rows or Columns")
    check_size(rows, columns, limits)
    photometric = get.text(header, "PhotometricInterpretation").upper()
    samples = get.integer(header, "SamplesPerPixel")
    if not any(
        get.holds(header, word) for word in ("PhotometricInterpretation", "SamplesPerPixel")
    ):
        # ACR-NEMA, before DICOM, knew neither: all its images are grey
        warnings.append("neither photometric interpretation nor samples: taken as MONOCHROME2")
        photometric = "MONOCHROME2"
    needed = _SAMPLES.get(photometric)
    if needed is None:
        raise ImageError("CORRUPT", "the photometric interpretation is missing or not known")
    if samples == 4 and photometric == "RGB":
        warnings.append("a fourth sample beside RGB: left out")
        return rows, columns, 4, photometric
    if samples not in (None, 0, needed):
        raise ImageError("CORRUPT", f"{photometric} can't have {samples} samples per pixel")
    return rows, columns, needed, photometric


def _frames(header: Dataset, held: int, one: int, warnings: list[str]) -> int:
    claimed = get.integer(header, "NumberOfFrames")
    if claimed is None and get.values(header, "NumberOfFrames"):
        if not one or held < one:
            raise ImageError("CORRUPT", "the number of frames is no number")
        warnings.append("the number of frames is no number: counted by the bytes")
        return held // one
    return max(1, claimed or 1)


def _layout(
    photometric: str, sizes: tuple[int, int, bool], warnings: list[str]
) -> tuple[str, bool]:
    """Return the photometric interpretation, and whether native chroma has half the columns."""
    held, whole, encapsulated = sizes
    if encapsulated or photometric not in _HALF_CHROMA:
        return photometric, False
    if held < whole:
        return photometric, True
    # decompressed by someone who left the header as it was
    warnings.append(f"{photometric} with a whole sample for each pixel")
    return ("YBR_PARTIAL" if "PARTIAL" in photometric else UNSURE), False


def _depth(header: Dataset, kind: str, warnings: list[str]) -> tuple[int, int, int, bool]:
    if kind != "PixelData":
        bits = 32 if kind == "FloatPixelData" else 64
        return bits, bits, bits - 1, True
    allocated = get.integer(header, "BitsAllocated")
    if allocated not in _ALLOCATED:
        raise ImageError("CORRUPT", f"Bits Allocated is {allocated}, not 1, 8, 16, 32 or 64")
    stored = get.integer(header, "BitsStored")
    if stored is None:
        stored = allocated
        warnings.append("no Bits Stored: taken as Bits Allocated")
    if not 1 <= stored <= allocated:
        raise ImageError("CORRUPT", f"Bits Stored is {stored} of {allocated} allocated bits")
    high_bit = get.integer(header, "HighBit")
    if high_bit is None or not stored - 1 <= high_bit < allocated:
        warnings.append("High Bit doesn't fit: taken as Bits Stored - 1")
        high_bit = stored - 1
    return allocated, stored, high_bit, get.integer(header, "PixelRepresentation") == 1


def _extended_offsets(header: Dataset) -> tuple[int, ...]:
    table = get.values(header, "ExtendedOffsetTable")
    if not table or not isinstance(table[0], bytes) or len(table[0]) % 8:
        return ()
    return tuple(int(offset) for offset in np.frombuffer(table[0], "<u8"))
