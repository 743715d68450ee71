"""Checked access to a DICOM header: a value of the right type, or nothing. Header values can be anything."""

import logging
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import PersonName

from pipeline.imaging.dicom_elements import items, tag_of
from pipeline.imaging.dicom_values import plain_values

_LOCK = threading.Lock()
_PYDICOM = logging.getLogger("pydicom")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from telling the world what stands in a header.

    Its warnings and log lines quote values, patients' names among them. Python's warning filters
    belong to the process, hence the lock; parsing holds the interpreter anyway.
    """
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, _PYDICOM.disabled = _PYDICOM.disabled, True
        try:
            yield
        finally:
            _PYDICOM.disabled = before


@cache
def _entry(keyword: str) -> tuple[BaseTag, str]:
    """Return the tag and the VR of a keyword of the dictionary."""
    number = tag_for_keyword(keyword)
    if number is None:
        raise ValueError(f"{keyword} is no keyword of DICOM's dictionary")
    return tag_of(number), dictionary_VR(number)


def holds(header: Dataset, keyword: str) -> bool:
    """Tell whether an attribute is there, be it empty or unreadable."""
    return header.get_item(_entry(keyword)[0]) is not None


def values(header: Dataset, keyword: str) -> list[Any]:
    """Return an attribute's values as a list; empty if it is missing, empty or unreadable."""
    tag, vr = _entry(keyword)
    element: Any = header.get_item(tag)
    if element is None:
        return []
    if isinstance(element, RawDataElement):
        plain = plain_values(element, element.VR or vr)
        if plain is not None:
            return plain
    try:
        value = header[tag].value
    except Exception:  # noqa: BLE001 - pydicom converts on access and raises whatever went wrong
        return []
    if value is None or (isinstance(value, str | bytes) and not value):
        return []
    if isinstance(value, str | bytes | PersonName) or not hasattr(value, "__iter__"):
        return [value]
    return list(value)


def text(header: Dataset, keyword: str) -> str:
    """Return the first value as stripped text, or an empty string."""
    found = values(header, keyword)
    return str(found[0]).strip(" \x00") if found else ""


def number(header: Dataset, keyword: str, index: int = 0) -> float | None:
    """Return one value as a finite number, or ``None``."""
    found = values(header, keyword)
    try:
        value = float(found[index])
    except (IndexError, TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def integer(header: Dataset, keyword: str) -> int | None:
    """Return the first value as a whole number, or ``None``."""
    value = number(header, keyword)
    return int(value) if value is not None and value == int(value) else None


def children(header: Dataset, keyword: str) -> list[Dataset]:
    """Return the data sets of a sequence; empty if it is missing or no sequence."""
    return items(header, _entry(keyword)[0])


def functional_groups(header: Dataset, frame: int) -> list[Dataset]:
    """Return where a frame's attributes may stand (PS3.3 C.7.6.16): its own group, the shared, the top."""
    own = children(header, "PerFrameFunctionalGroupsSequence")[frame : frame + 1]
    shared = children(header, "SharedFunctionalGroupsSequence")[:1]
    return [*own, *shared, header]


def macro(header: Dataset, frame: int, sequence: str) -> list[Dataset]:
    """Return the data sets of a functional group macro for one frame, then the top level itself."""
    found = [
        child
        for group in functional_groups(header, frame)[:-1]
        for child in children(group, sequence)[:1]
    ]
    return [*found, header]
