"""Coded entries (PS3.3 8.8): kept by value, their meaning written anew, so that no free text passes."""

import re
from functools import cache

from pydicom.dataset import Dataset

from pipeline.imaging import attributes as get

LOCAL_CODE = ("CodeValue", "0", "99HILUM")
"""Stands where a code of a local scheme stood, so that the sequence keeps its length."""
_VALUES = ("CodeValue", "LongCodeValue")
_SNOMED_RT = r"[A-Z0-9]{1,2}-[A-Z0-9]{4,6}"
_SCHEMES: dict[str, re.Pattern[str]] = {
    "DCM": re.compile(r"\d{6}"),
    "SCT": re.compile(r"\d{6,18}"),
    "SRT": re.compile(_SNOMED_RT),
    "SNM3": re.compile(_SNOMED_RT),
    "99SDM": re.compile(_SNOMED_RT),
    "LN": re.compile(r"\d{1,6}-\d"),
    "FMA": re.compile(r"\d{4,7}"),
    "NCIt": re.compile(r"C\d{4,7}"),
    "RADLEX": re.compile(r"RID\d{1,6}"),
    "UMLS": re.compile(r"C\d{7}"),
    "MSH": re.compile(r"[CD]\d{6,9}"),
    "UCUM": re.compile(r"[A-Za-z0-9.%/*^{}\[\]()'_\-]{1,16}"),
}
"""Public coding schemes of PS3.16 and what their values look like. Local ones can say anything."""


def is_coded(entry: Dataset) -> bool:
    """Tell whether an entry of a sequence is a coded entry."""
    return any(keyword in entry for keyword in _VALUES)


def clean_code(entry: Dataset) -> tuple[str, str, str] | None:
    """Return keyword, value and scheme of a code that may stay, or ``None``."""
    scheme = get.text(entry, "CodingSchemeDesignator")
    for keyword in _VALUES:
        value = get.text(entry, keyword)
        if scheme in _SCHEMES and _SCHEMES[scheme].fullmatch(value):
            if scheme == "UCUM" and not _is_unit(value):
                return None
            return keyword, value, scheme
    return None


def meaning_of(value: str, scheme: str) -> str:
    """Return what the code means by PS3.16; where that isn't known here, the value itself."""
    if scheme == LOCAL_CODE[2]:
        return "local code removed"
    if scheme in ("SRT", "SNM3", "99SDM"):
        from pydicom.sr._snomed_dict import mapping  # a second to load: only where needed

        scheme, value = "SCT", mapping["SRT"].get(value, value)
    return _meanings(scheme).get(value, value)


def _is_unit(value: str) -> bool:
    # what stands in braces is a remark and could be a name; long words are no units
    known = value in _meanings("UCUM")
    return known or (not re.search(r"[{}]", value) and not re.search(r"[A-Za-z]{4,}", value))


@cache
def _meanings(scheme: str) -> dict[str, str]:
    from pydicom.sr._concepts_dict import concepts

    found: dict[str, str] = {}
    for entries in concepts.get(scheme, {}).values():
        for value, (meaning, _) in entries.items():
            found[value] = meaning
    return found
