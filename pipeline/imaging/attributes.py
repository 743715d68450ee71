"""Checked access to a DICOM header: a value of the right type, or nothing. Header values can be anything."""

import logging
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName
from pydicom.tag import BaseTag

from pipeline.imaging.dicom_elements import items

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
def _tag(keyword: str) -> BaseTag | None:
    number = tag_for_keyword(keyword)
    return None if number is None else BaseTag(number)


def values(header: Dataset, keyword: str) -> list[Any]:
    """Return an attribute's values as a list; empty if it is missing, empty or unreadable."""
    try:
        # by tag: by keyword, pydicom raises and catches for each attribute that isn't there
        tag = _tag(keyword)
        value = header.get(keyword) if tag is None else header[tag].value
    except KeyError:
        return []
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
    tag = tag_for_keyword(keyword)
    return [] if tag is None else items(header, tag)


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
