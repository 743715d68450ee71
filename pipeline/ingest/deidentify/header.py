"""One data set to a clean one: every attribute by the profile's table, and by its kind where it has no row.

The table alone would let everything pass that it doesn't name. Here nothing passes that can hold free
text, unless it is named in this module; what passes is numbers, codes, mapped UIDs and dates by option.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pipeline.imaging import attributes as get
from pipeline.imaging.dicom_elements import items
from pipeline.ingest.deidentify import values
from pipeline.ingest.deidentify.codes import LOCAL_CODE, clean_code, is_coded, meaning_of
from pipeline.ingest.deidentify.icc import clean_profile
from pipeline.ingest.deidentify.profile import Choice, Rule, rules
from pipeline.ingest.deidentify.values import Secret
from pipeline.ingest.patients import pseudonym

_TIMES = ("DA", "TM", "DT")
_TEXTS = ("LO", "SH", "ST", "LT", "UT", "UC", "UR", "AE", "PN")
_BINARY_NUMBERS = ("US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "AT")
_MOST_DEPTH = 32
_KEPT_TEXT = frozenset(
    {
        "Manufacturer",
        "ManufacturerModelName",
        "SoftwareVersions",
        "ConvolutionKernel",
        "SequenceName",
        "PulseSequenceName",
        "FilterType",
    }
)
"""Text that says how the picture was made. Only ASCII, and not if it repeats a name of the patient."""
_KEPT_BYTES = frozenset(
    {
        "RedPaletteColorLookupTableData",
        "GreenPaletteColorLookupTableData",
        "BluePaletteColorLookupTableData",
        "AlphaPaletteColorLookupTableData",
        "SegmentedRedPaletteColorLookupTableData",
        "SegmentedGreenPaletteColorLookupTableData",
        "SegmentedBluePaletteColorLookupTableData",
        "SegmentedAlphaPaletteColorLookupTableData",
        "LUTData",
        "ExtendedOffsetTable",
        "ExtendedOffsetTableLengths",
    }
)
_KEPT_TERMS = frozenset(
    {
        "HU",
        "US",
        "OD",
        "MGML",
        "Z_EFF",
        "ED",
        "EDW",
        "HU_MOD",
        "PCT",
        "NORMALIZED",
        "1.0",
        "OPTICAL",
    }
)
"""Defined terms of attributes whose VR would allow free text: Rescale Type and its kin."""
_EMPTIED = ("AcquisitionContextSequence", "ResponsiblePerson", "ResponsibleOrganization")
"""X or X/Z in the table, and of type 2 or 2C where they occur: emptied, so that the object stays valid."""
_OWN_WORDS = ("ImageType", "FrameType", "Modality", "BodyPartExamined")
_SHORT_NUMBER = re.compile(r"\d{1,3}")
_PRINTABLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,64}")
_ANY_SCRIPT = re.compile(r"[^\x00-\x1f\\]{1,1024}")
_BIRTH = 0x0010
_LAST_MENSTRUAL = 0x001021D0
_IDENTIFIERS = (
    "PatientID",
    "OtherPatientIDs",
    "AccessionNumber",
    "IssuerOfPatientID",
    "AdmissionID",
)


@dataclass(frozen=True, slots=True, repr=False)
class Cleaning:
    """What cleaning one object needs to know everywhere inside it."""

    secret: Secret
    choice: Choice
    names: frozenset[str]
    """Words of names and identifiers in the source, in lower case: kept text must not repeat them."""


def clean_header(source: Dataset, cleaning: Cleaning, depth: int = 0) -> Dataset:
    """Return a new data set with what may stay of ``source``; pixel data are not among it.

    Call inside :func:`attributes.quiet`. A value that can't be read is left out.
    """
    target = Dataset()
    if depth > _MOST_DEPTH:
        return target
    for tag in sorted(source.keys()):
        if not _is_public(tag) or _is_graphic(tag):
            continue
        try:
            element = _element(source, tag)
            cleaned = _clean(element, cleaning, depth)
            if cleaned is not None:
                target.add(cleaned)
        except Exception:  # noqa: BLE001, S112 - pydicom converts on access; what can't be read can't stay
            continue
    return target


def words_of_names(source: Dataset) -> frozenset[str]:
    """Return the words of every person's name and the patient's identifiers, of 4 letters or more."""
    found: set[str] = set()
    for element in _every(source, 0):
        if element.VR == "PN" or element.keyword in _IDENTIFIERS:
            found.update(re.split(r"[\^=\s,;\\]+", str(element.value).casefold()))
    return frozenset(word for word in found if len(word) >= 4)


def with_character_set(source: Dataset, parents: Any = None) -> Dataset:
    """Let pydicom decode text as (0008,0005) says, or else as the data set around it does."""
    try:
        own = convert_encodings(get.values(source, "SpecificCharacterSet") or None)
    except Exception:  # noqa: BLE001 - names that aren't known, and worse
        own = None
    given = "SpecificCharacterSet" in source
    source.set_original_encoding(None, None, own if given or parents is None else parents)
    return source


def _element(source: Dataset, tag: Any) -> DataElement:
    if dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ":
        for entry in items(source, tag):  # forgives what pydicom's own parser doesn't
            with_character_set(entry, source.original_character_set)
    element: DataElement = source[tag]
    return element


def _every(source: Dataset, depth: int) -> Iterator[DataElement]:
    for tag in source.keys() if depth <= _MOST_DEPTH else ():
        try:
            element = _element(source, tag)
        except Exception:  # noqa: BLE001, S112 - pydicom converts on access
            continue
        if element.VR == "SQ":
            for entry in element.value:
                yield from _every(entry, depth + 1)
        else:
            yield element


def _is_public(tag: Any) -> bool:
    # groups below 0008 belong to commands and file meta
    known = dictionary_has_tag(tag) and tag.group >= 0x0008 and tag.element != 0
    return known and not tag.is_private


def _is_graphic(tag: Any) -> bool:
    # curves and overlays are repeating groups: 50xx, 60xx
    return tag.group & 0xFF00 in (0x5000, 0x6000)


def _clean(element: DataElement, cleaning: Cleaning, depth: int) -> DataElement | None:
    rule = rules().get(int(element.tag))
    if rule is None:
        return _by_kind(element, cleaning, depth)
    if rule.retained_by in cleaning.choice.retain and rule.retained_by:
        return _retained(element, cleaning, depth)
    if element.VR in _TIMES and cleaning.choice.dates != "remove":
        moved = _by_kind(element, cleaning, depth)
        if moved is not None:
            return moved
    return _by_rule(element, rule, cleaning, depth)


def _by_rule(
    element: DataElement, rule: Rule, cleaning: Cleaning, depth: int
) -> DataElement | None:
    if element.keyword == "PatientID" and element.value:
        return _new(element, pseudonym(cleaning.secret.key, str(element.value)))
    if element.keyword in _EMPTIED:
        return DataElement(element.tag, element.VR, [] if element.VR == "SQ" else None)
    if rule.action == "X" or (element.VR == "SQ" and rule.action == "X/Z"):
        return None
    if rule.action == "U" or (element.VR == "SQ" and rule.action != "Z"):
        return _by_kind(element, cleaning, depth)
    if "D" in rule.action and element.value not in (None, ""):
        made = values.dummy(element.VR)
        if made is not None:
            return _new(element, made)
    return DataElement(element.tag, element.VR, [] if element.VR == "SQ" else None)


def _retained(element: DataElement, cleaning: Cleaning, depth: int) -> DataElement | None:
    if element.VR in _TEXTS:
        kept = [text for text in _texts(element) if _ANY_SCRIPT.fullmatch(text)]
        return _new(element, kept) if kept else None
    if element.VR == "AS":
        ages = [values.clean_age(text) for text in _texts(element)]
        return _new(element, ages) if all(ages) else None
    return _by_kind(element, cleaning, depth)


def _by_kind(element: DataElement, cleaning: Cleaning, depth: int) -> DataElement | None:
    vr = element.VR
    said = dictionary_VR(element.tag).split(" or ")
    if vr == "SQ":
        return _sequence(element, cleaning, depth) if "SQ" in said else None
    if vr == "UI":
        uids = [values.clean_uid(t, cleaning.secret, cleaning.choice) for t in _texts(element)]
        return _new(element, uids)
    if vr in _TIMES:
        return _time(element, cleaning)
    if vr in _BINARY_NUMBERS:  # text under a number's VR would pass unread
        return element if any(own in _BINARY_NUMBERS for own in said) else None
    if vr in ("DS", "IS", "CS"):
        return _string(element, cleaning)
    if vr in _TEXTS:
        return _text(element, cleaning)
    return _bytes(element)


def _time(element: DataElement, cleaning: Cleaning) -> DataElement | None:
    if element.tag.group == _BIRTH and element.tag != _LAST_MENSTRUAL:
        return None  # when somebody was born or died is no longitudinal information
    moved = [
        values.clean_time(element.VR, text, cleaning.secret, cleaning.choice)
        for text in _texts(element)
    ]
    return _new(element, moved) if moved and all(moved) else None


def _string(element: DataElement, cleaning: Cleaning) -> DataElement | None:
    texts = _texts(element)
    if element.VR == "CS":
        # "Perfusion^Stroke" is a name in a test archive, PERFUSION a word of Image Type
        names = cleaning.names if element.keyword not in _OWN_WORDS else frozenset()
        good = all(values.is_code(text) and text.casefold() not in names for text in texts)
    else:
        good = all(not t or values.is_number(t) for t in texts)
    if not good:
        return None
    return _new(element, texts)


def _text(element: DataElement, cleaning: Cleaning) -> DataElement | None:
    """Keep what is known to be harmless; elsewhere say that something was removed.

    A placeholder keeps the object valid whatever the attribute's type is; removal would not.
    """
    texts = [text for text in _texts(element) if text]
    if not texts:
        return DataElement(element.tag, element.VR, None)
    if element.keyword == "TimezoneOffsetFromUTC":
        keep = cleaning.choice.dates != "remove" and all(map(values.is_offset, texts))
        return _new(element, texts) if keep else None
    if all(text in _KEPT_TERMS or _SHORT_NUMBER.fullmatch(text) for text in texts) or (
        element.keyword in _KEPT_TEXT and all(_harmless(text, cleaning) for text in texts)
    ):
        return _new(element, texts)
    return None if element.VR in ("UR", "AE") else _new(element, values.dummy(element.VR))


def _harmless(text: str, cleaning: Cleaning) -> bool:
    repeats = any(name in text.casefold() for name in cleaning.names)
    return _PRINTABLE.fullmatch(text) is not None and not repeats


def _bytes(element: DataElement) -> DataElement | None:
    if element.keyword == "ICCProfile" and isinstance(element.value, bytes):
        made = clean_profile(element.value)
        return None if made is None else _new(element, made)
    if element.keyword in _KEPT_BYTES:
        return element
    if element.VR == "US or SS":  # which of them is only known beside the pixels
        several = dictionary_VM(element.tag)
        count = int(several) if several.isdecimal() else 0
        if isinstance(element.value, bytes) and len(element.value) == 2 * count:
            return element
    return None


def _sequence(element: DataElement, cleaning: Cleaning, depth: int) -> DataElement:
    entries = [_entry(entry, cleaning, depth + 1) for entry in element.value]
    return DataElement(element.tag, "SQ", Sequence(entries))


def _entry(entry: Dataset, cleaning: Cleaning, depth: int) -> Dataset:
    cleaned = clean_header(entry, cleaning, depth)  # of a code, its modifiers stand inside
    if not is_coded(entry):
        return cleaned
    for keyword in ("CodeValue", "LongCodeValue", "CodingSchemeVersion"):
        if keyword in cleaned:
            del cleaned[keyword]
    keyword, value, scheme = clean_code(entry) or LOCAL_CODE
    setattr(cleaned, keyword, value)
    cleaned.CodingSchemeDesignator = scheme
    cleaned.CodeMeaning = meaning_of(value, scheme)[:64]
    return cleaned


def _texts(element: DataElement) -> list[str]:
    if element.value is None:
        return []
    multiple = not isinstance(element.value, str | bytes) and hasattr(element.value, "__iter__")
    found = list(element.value) if multiple and element.VR != "PN" else [element.value]
    return [str(value).strip(" \x00") for value in found]


def _new(element: DataElement, value: Any) -> DataElement:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return DataElement(element.tag, element.VR, value)
