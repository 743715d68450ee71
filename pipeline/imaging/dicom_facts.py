"""What a DICOM header says about the picture as a whole: side, view, device, shape of a pixel."""

import re

from pydicom.dataset import Dataset

from data_schemas.terms import Laterality
from pipeline.imaging import attributes as get

_RIGHT = ("24028007", "T-17100", "G-A100")
_LEFT = ("7771000", "G-A101")
_BOTH = ("51440002", "G-A102")
_SIDES: dict[str, Laterality] = {
    "R": "R", "L": "L", "B": "B", "OD": "R", "OS": "L", "OU": "B", "RIGHT": "R", "LEFT": "L",
}  # fmt: skip
# PS3.16 CID 4010 and 4014, SNOMED CT and the SNOMED RT codes of older objects; the short words are
# those of View Position (0018,5101)
_VIEWS = {
    "399162004": "CC", "R-10242": "CC", "399368009": "MLO", "R-10226": "MLO",
    "399260004": "ML", "R-10224": "ML", "399352003": "LM", "R-10228": "LM",
    "399099002": "LMO", "R-10230": "LMO", "399196006": "FB", "R-10244": "FB",
    "399188001": "SIO", "R-102D0": "SIO", "399192008": "XCCL", "R-1024A": "XCCL",
    "399101009": "XCCM", "R-1024B": "XCCM", "272479007": "PA", "R-40888": "PA", "R-10214": "PA",
    "399348003": "AP", "R-10206": "AP", "399173006": "LL", "R-10236": "LL",
    "399198007": "RL", "R-10232": "RL",
}  # fmt: skip


def aspect(header: Dataset, frame: int) -> float:
    """Return the height of a pixel over its width (PS3.3 C.7.6.3.1.7 and 10.7.1.3), 1 if unknown."""
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


_NAMES = (
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "OtherPatientNames",
    "ReferringPhysicianName",
)


def device(header: Dataset) -> str:
    """Return manufacturer and model; no serial number, no station.

    Both are free text. What repeats a word of a name or an identifier of the patient is left out.
    """
    given = (get.text(header, "Manufacturer"), get.text(header, "ManufacturerModelName"))
    names = {
        word
        for keyword in _NAMES
        for word in re.split(r"[\^=\s,;]+", get.text(header, keyword).casefold())
        if len(word) >= 4
    }
    return " ".join(
        text for text in given if text and not any(name in text.casefold() for name in names)
    )


def view(header: Dataset, frame: int) -> str:
    """Return the view as a short word (CC, MLO, PA ...): by its code first, by its text second."""
    for group in get.macro(header, frame, "XRay3DFrameTypeSequence"):
        for code in get.children(group, "ViewCodeSequence")[:1]:
            known = _VIEWS.get(get.text(code, "CodeValue"))
            if known:
                return known
    return get.text(header, "ViewPosition").upper()


def laterality(header: Dataset, frame: int) -> Laterality:
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
                found = _modifier(region)
                if found is not None:
                    return found
    return "U"


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
