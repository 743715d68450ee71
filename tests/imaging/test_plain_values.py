"""Header values that are converted without pydicom are the ones that pydicom gives."""

import re
import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from data_schemas.contract import Limits
from data_schemas.errors import ImageError
from pipeline.imaging import attributes as get
from pipeline.imaging.dicom_parse import parse
from pipeline.imaging.dicom_values import plain_values

ROOMS = Path(__file__).resolve().parents[2] / "pipeline"
TAG = Tag(0x00280010)


def pydicoms(raw: RawDataElement) -> list[object]:
    """Return what pydicom makes of an element, in the types of the plain ones."""
    with get.quiet():
        value = convert_raw_data_element(raw).value
    many = list(value) if isinstance(value, list | MultiValue) else [value]
    plain = {"DS": float, "IS": int}.get(str(raw.VR), str)
    return [plain(one) if not isinstance(one, int | float) or raw.VR == "DS" else one for one in many]  # fmt: skip


@given(
    st.sampled_from(["CS", "LO", "SH", "PN", "UI", "IS", "DS"]),
    st.one_of(st.binary(max_size=24), st.text("0123456789.-+eE\\ ^=~\0\x1bAz", max_size=24).map(str.encode)),
)  # fmt: skip
@example("DS", b"-1.5e3 \\ 2")
@example("IS", b"12\\-3 ")
@example("UI", b"1.2.840\0")
@example("LO", b"A~B")
@example("PN", b"Name^First ")
@example("PN", b"=")
@example("PN", b"A^B=C=")
def test_text_is_converted_as_pydicom_does_or_left_to_it(vr, value):
    raw = RawDataElement(TAG, vr, len(value), value, 0, False, True)
    plain = plain_values(raw, vr)
    if plain is not None:
        expected = pydicoms(raw) if value.strip(b"\0 ") else []
        assert plain == expected


@given(st.sampled_from(["US", "SS", "UL", "SL", "FL", "FD"]), st.binary(max_size=16), st.booleans())
def test_numbers_are_converted_as_pydicom_does_or_left_to_it(vr, value, little):
    raw = RawDataElement(TAG, vr, len(value), value, 0, False, little)
    plain = plain_values(raw, vr)
    if plain is None:
        assert len(value) % struct.calcsize({"U": "H", "S": "h", "F": "f"}[vr[0]]) or len(value) % 8
    elif value:
        assert repr(plain) == repr(pydicoms_numbers(raw))


def pydicoms_numbers(raw: RawDataElement) -> list[object]:
    """Return the numbers that pydicom reads."""
    element: DataElement = convert_raw_data_element(raw)
    return list(element.value) if element.VM > 1 else [element.value]


@pytest.mark.needs_shared
def test_every_attribute_of_every_real_header_is_the_same(monkeypatch, shared_dicom):
    words = set(re.findall(r'"([A-Z][A-Za-z]+)"', "".join(p.read_text() for p in ROOMS.rglob("*.py"))))  # fmt: skip
    keywords = sorted(word for word in words if tag_for_keyword(word) is not None)
    different = []
    for path in sorted(shared_dicom.glob("*.dcm")):
        data = path.read_bytes()
        try:
            with get.quiet():
                ours, theirs = parse(data, Limits()).header, parse(data, Limits()).header
        except ImageError:
            continue
        with get.quiet():
            found = [meant(ours, word) for word in keywords]
            with monkeypatch.context() as patch:
                patch.setattr(get, "plain_values", lambda *_: None)
                expected = [meant(theirs, word) for word in keywords]
        different += [(path.name, *pair) for pair in zip(found, expected, strict=True) if pair[0] != pair[1]]  # fmt: skip
    assert not different


def meant(header: Dataset, word: str) -> object:
    """Return a number where the dictionary says that there is one, else text."""
    if dictionary_VR(word) in ("DS", "IS", "US", "FD", "FL", "UL"):
        return [get.number(header, word, index) for index in range(3)]
    return get.text(header, word)


def test_an_attribute_that_no_dictionary_knows_is_a_fault_of_the_caller():
    with pytest.raises(ValueError, match="NoSuchWord"):
        get.values(parse(b"", Limits()).header, "NoSuchWord")
