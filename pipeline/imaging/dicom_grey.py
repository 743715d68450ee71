"""What a DICOM header says about grey values: rescale, LUTs, windows, padding; as :class:`GreyFacts`."""

import numpy as np
from pydicom.dataset import Dataset

from pipeline.imaging import attributes as get
from pipeline.imaging.grey import usable
from pipeline.imaging.instance import GreyFacts, Lut, VoiFunction, Window
from pipeline.imaging.luts import lut


def grey_facts(
    header: Dataset,
    frame: int,
    kind: str,
    stored: tuple[int, bool, bool, str],
    warnings: list[str],
) -> GreyFacts:
    """Return the grey facts of one frame.

    Parameters
    ----------
    kind
        PixelData, FloatPixelData or DoubleFloatPixelData.
    stored
        Bits Stored, signed, little endian, photometric interpretation.
    warnings
        What was mended is added to it.
    """
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
        padding=_float_padding(header, kind) or _padding(header, bits, signed=signed),
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


def _float_padding(header: Dataset, kind: str) -> tuple[float, float] | None:
    """Return the padding of floating-point pixels (PS3.3 C.7.5.1), as exact as the pixels are."""
    if kind == "PixelData":
        return None
    start = kind.removesuffix("PixelData")
    value = get.number(header, f"{start}PixelPaddingValue")
    limit = get.number(header, f"{start}PixelPaddingRangeLimit")
    if value is None:
        return None
    ends = [value, value if limit is None else limit]
    if kind == "FloatPixelData":
        ends = [float(np.float32(end)) for end in ends]
    return min(ends), max(ends)


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
