"""The part of a DICOM header that the pixel road needs, checked: an :class:`ImageHeader`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from data_schemas.contract import Contract, Limits
from data_schemas.errors import ImageError
from data_schemas.terms import Laterality
from pipeline.imaging import attributes as get
from pipeline.imaging.accept import choose_frame, require_colour, require_modality
from pipeline.imaging.dicom_parse import Parsed, no_pixels, pixel_element
from pipeline.imaging.grey import usable
from pipeline.imaging.instance import GreyFacts, Lut, VoiFunction, Window
from pipeline.imaging.limits import check_size
from pipeline.imaging.luts import lut, palette

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420", "YBR_PARTIAL_422")  # fmt: skip
_ALLOCATED = (1, 8, 16, 32, 64)
_RIGHT = ("24028007", "T-17100", "G-A100")
_LEFT = ("7771000", "G-A101")
_BOTH = ("51440002", "G-A102")


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
    value: bytes
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
    view: str
    device: str
    warnings: tuple[str, ...]


def image_header(parsed: Parsed, contract: Contract) -> ImageHeader:
    """Check a parsed object against the contract and return what decoding needs.

    Raises
    ------
    ImageError
        NOT_AN_IMAGE, TRUNCATED, CORRUPT, TOO_LARGE, WRONG_MODALITY, NOT_COLOUR or MULTIFRAME.
    """
    header = parsed.header
    found = pixel_element(header)
    if found is None:
        raise no_pixels(header)
    kind, value, vr = found
    modality = get.text(header, "Modality").upper()
    require_modality(modality, contract.accept)
    warnings: list[str] = []
    rows, columns, samples, photometric = _shape(header, contract.limits)
    require_colour(photometric not in _GREY, contract.accept)
    claimed = get.integer(header, "NumberOfFrames")
    if claimed is None and get.values(header, "NumberOfFrames"):
        raise ImageError("CORRUPT", "the number of frames is no number")
    frames = max(1, claimed or 1)
    frame = choose_frame(frames, contract.accept)
    if frames > 1:
        warnings.append(f"frame {frame + 1} of {frames}")
    allocated, stored, high_bit, signed = _depth(header, kind, warnings)
    little = parsed.little_endian
    is_grey = photometric in _GREY
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
        kind=kind,
        value=value,
        swap_words=not little and allocated == 8 and vr == "OW",
        syntax=parsed.syntax,
        little_endian=little,
        offsets=_extended_offsets(header),
        palette=palette(header, little_endian=little) if photometric == "PALETTE COLOR" else None,
        grey=_grey_facts(header, frame, (stored, signed, little, photometric), warnings)
        if is_grey
        else None,
        aspect=_aspect(header, frame),
        modality=modality,
        laterality=_laterality(header, frame),
        patient_key=get.text(header, "PatientID"),
        instance_key=get.text(header, "SOPInstanceUID"),
        site_key=get.text(header, "InstitutionName"),
        view=get.text(header, "ViewPosition").upper(),
        device=_device(header),
        warnings=tuple(warnings),
    )


def _shape(header: Dataset, limits: Limits) -> tuple[int, int, int, str]:
    rows, columns = get.integer(header, "Rows"), get.integer(header, "Columns")
    if rows is None or columns is None:
        raise ImageError("CORRUPT", "the header has no usable Rows or Columns")
    check_size(rows, columns, limits)
    photometric = get.text(header, "PhotometricInterpretation").upper()
    colour = photometric in _COLOUR
    if not colour and photometric not in (*_GREY, "PALETTE COLOR"):
        raise ImageError("CORRUPT", "the photometric interpretation is missing or not known")
    samples = get.integer(header, "SamplesPerPixel") or (3 if colour else 1)
    if samples != (3 if colour else 1):
        raise ImageError("CORRUPT", f"{photometric} can't have {samples} samples per pixel")
    return rows, columns, samples, photometric


def _depth(header: Dataset, kind: str, warnings: list[str]) -> tuple[int, int, int, bool]:
    if kind != "PixelData":
        bits = 32 if kind == "FloatPixelData" else 64
        return bits, bits, bits - 1, True
    allocated = get.integer(header, "BitsAllocated")
    if allocated not in _ALLOCATED:
        raise ImageError("CORRUPT", f"Bits Allocated is {allocated}, not one of 1, 8, 16, 32, 64")
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


def _grey_facts(
    header: Dataset, frame: int, stored: tuple[int, bool, bool, str], warnings: list[str]
) -> GreyFacts:
    bits, signed, little, photometric = stored
    slope, intercept = _rescale(header, frame, warnings)
    modality_lut = _first_lut(header, "ModalityLUTSequence", signed=signed, little=little)
    # the VOI LUT's input is signed if the modality LUT's output can be
    negative = modality_lut is None and (signed or intercept < 0 or slope < 0)
    voi_lut = _first_lut(header, "VOILUTSequence", signed=negative, little=little)
    return GreyFacts(
        bits=bits,
        signed=signed,
        inverted=photometric == "MONOCHROME1",
        slope=slope,
        intercept=intercept,
        modality_lut=modality_lut,
        voi_lut=voi_lut,
        window=_window(header, frame, warnings),
        padding=_padding(header, bits, signed=signed),
    )


def _rescale(header: Dataset, frame: int, warnings: list[str]) -> tuple[float, float]:
    for group in get.macro(header, frame, "PixelValueTransformationSequence"):
        slope = get.number(group, "RescaleSlope")
        intercept = get.number(group, "RescaleIntercept")
        if slope == 0:
            warnings.append("Rescale Slope 0 can't be meant: taken as 1")
            slope = 1.0
        if slope is not None or intercept is not None:
            return 1.0 if slope is None else slope, intercept or 0.0
    return 1.0, 0.0


def _first_lut(header: Dataset, sequence: str, *, signed: bool, little: bool) -> Lut | None:
    tables = get.children(header, sequence)
    return lut(tables[0], signed=signed, little_endian=little) if tables else None


def _window(header: Dataset, frame: int, warnings: list[str]) -> Window | None:
    for group in get.macro(header, frame, "FrameVOILUTSequence"):
        centre, width = get.number(group, "WindowCenter"), get.number(group, "WindowWidth")
        if centre is None or width is None:
            continue
        if len(get.values(group, "WindowCenter")) > 1:
            warnings.append("several windows: the first is taken")
        named = get.text(group, "VOILUTFunction").upper()
        function: VoiFunction = "LINEAR"
        if named == "SIGMOID":
            function = "SIGMOID"
        elif named == "LINEAR_EXACT":
            function = "LINEAR_EXACT"
        window = Window(centre, width, function)
        if usable(window):
            return window
        warnings.append("the window's width is invalid: the window is ignored")
    return None


def _padding(header: Dataset, bits: int, *, signed: bool) -> tuple[float, float] | None:
    value = get.number(header, "PixelPaddingValue")
    if value is None:
        return None
    limit = get.number(header, "PixelPaddingRangeLimit")
    ends = [_as_stored(v, bits, signed=signed) for v in (value, value if limit is None else limit)]
    return min(ends), max(ends)


def _as_stored(value: float, bits: int, *, signed: bool) -> float:
    # written under the wrong VR, a negative padding value reads as a large unsigned one, and back
    if signed and value >= 1 << 15 and bits <= 16:
        return value - (1 << 16)
    if not signed and value < 0:
        return value + (1 << 16)
    return value


def _aspect(header: Dataset, frame: int) -> float:
    # row distance over column distance: PS3.3 C.7.6.3.1.7 and 10.7.1.3
    places = [(header, "PixelAspectRatio")]
    places += [
        (group, "PixelSpacing") for group in get.macro(header, frame, "PixelMeasuresSequence")
    ]
    places += [(header, "ImagerPixelSpacing"), (header, "NominalScannedPixelSpacing")]
    for group, keyword in places:
        down, across = get.number(group, keyword, 0), get.number(group, keyword, 1)
        if down and across and 0.1 <= down / across <= 10.0:
            ratio = down / across
            return 1.0 if abs(ratio - 1.0) < 0.01 else ratio
    return 1.0


def _device(header: Dataset) -> str:
    words = (get.text(header, "Manufacturer"), get.text(header, "ManufacturerModelName"))
    return " ".join(word for word in words if word)


def _laterality(header: Dataset, frame: int) -> Laterality:
    """Look a side up: image, series, frame, then the modifiers of the anatomic region; never the name."""
    groups = get.macro(header, frame, "FrameAnatomySequence")
    words = [get.text(header, "ImageLaterality"), get.text(header, "Laterality")]
    words += [get.text(group, "FrameLaterality") for group in groups]
    for word in words:
        side = _SIDES.get(word.upper())
        if side is not None:
            return side
    for group in groups:
        for sequence in ("AnatomicRegionSequence", "PrimaryAnatomicStructureSequence"):
            for region in get.children(group, sequence):
                side = _modifier(region)
                if side is not None:
                    return side
    return "U"


_SIDES: dict[str, Laterality] = {
    "R": "R", "L": "L", "B": "B", "OD": "R", "OS": "L", "OU": "B", "RIGHT": "R", "LEFT": "L",
}  # fmt: skip


def _modifier(region: Dataset) -> Laterality | None:
    for sequence in ("AnatomicRegionModifierSequence", "PrimaryAnatomicStructureModifierSequence"):
        for code in get.children(region, sequence):
            value = get.text(code, "CodeValue")
            if value in _RIGHT:
                return "R"
            if value in _LEFT:
                return "L"
            if value in _BOTH:
                return "B"
    return None
