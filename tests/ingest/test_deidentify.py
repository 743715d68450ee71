"""Clean copies: what the profile asks for, object by object and value by value."""

import io
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from data_schemas.contract import Limits
from data_schemas.errors import ImageError
from pipeline.ingest.deidentify import values
from pipeline.ingest.deidentify.dicom import clean_object
from pipeline.ingest.deidentify.profile import Choice, rules
from pipeline.ingest.patients import pseudonym
from tests.ingest import planted

KEY = b"a key for tests only"


def cleaned(data, dates="remove", retain=(), key=KEY):
    choice = Choice(dates, frozenset(retain))
    made = clean_object(data, key=key, choice=choice, limits=Limits(), digest="d" * 64)
    return dcmread(io.BytesIO(made.data)), made


def test_the_profile_is_the_whole_table():
    table = rules()
    assert len(table) == 652
    assert {rule.action for rule in table.values()} == {"D", "Z", "X", "U", "X/Z", "X/D", "Z/D", "X/Z/D", "X/Z/U*"}  # fmt: skip
    for keyword, action in (("00100010", "Z"), ("00100020", "Z/D"), ("00080018", "U"), ("00080080", "X/Z/D"), ("00080020", "Z"), ("00081140", "X/Z/U*"), ("00101040", "X")):  # fmt: skip
        assert table[int(keyword, 16)].action == action


def test_no_attribute_of_the_profile_keeps_its_value():
    """One object with every attribute of the table that can hold a text, a date or a UID."""
    samples = {"DA": "20191224", "TM": "142536", "DT": "20191224142536", "UI": "1.2.276.0.7230010.99.77", "AS": "093Y", "CS": "SECRETCODE", "IS": "4711", "DS": "47.11"}  # fmt: skip
    source = dcmread(io.BytesIO(planted.dicom(1)))
    filled = []
    for tag in rules():
        try:
            vr = dictionary_VR(tag)
        except KeyError:
            continue
        sample = samples.get(vr, "Secretmann" if vr in ("PN", "LO", "SH", "ST", "LT", "UT", "UC", "UR", "AE") else None)  # fmt: skip
        if sample is None or tag >> 16 in (0x0000, 0x0002, 0xFFFC) or tag in (0x00080018,):
            continue
        source.add_new(tag, vr, sample)
        filled.append((tag, sample))
    source["PixelData"].VR = "OB"
    out = io.BytesIO()
    source.save_as(out)
    clean, made = cleaned(out.getvalue())
    assert len(filled) > 450
    left = [f"{tag:08X}" for tag, sample in filled if tag in clean and clean[tag].value not in (None, "") and str(clean[tag].value) == sample]  # fmt: skip
    assert left == []
    assert b"Secretmann" not in made.data
    assert b"1.2.276.0.7230010.99.77" not in made.data


def test_what_is_written_back():
    clean, made = cleaned(planted.dicom(1))
    assert clean.preamble == bytes(128)
    assert clean.PatientIdentityRemoved == "YES"
    assert clean.LongitudinalTemporalInformationModified == "REMOVED"
    assert [item.CodeValue for item in clean.DeidentificationMethodCodeSequence] == ["113100"]
    assert clean.PatientID == pseudonym(KEY, planted.PATIENT_ID) == made.patient
    assert clean.file_meta.MediaStorageSOPInstanceUID == clean.SOPInstanceUID
    assert "SourceApplicationEntityTitle" not in clean.file_meta
    assert clean.ImageLaterality == "L"
    assert not [e for e in clean.iterall() if e.tag.is_private or e.tag.group >> 8 in (0x50, 0x60)]


def test_options_add_their_codes_and_keep_their_attributes():
    clean, _ = cleaned(planted.dicom(1), "shift", ["patient", "device", "institution", "uids"])
    codes = [item.CodeValue for item in clean.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113107", "113108", "113109", "113110", "113112"]
    assert clean.PatientAge == "090Y"
    assert clean.PatientSex == "F"
    assert clean.DeviceSerialNumber == "SERIAL-55512"
    assert clean.InstitutionName == "St. Hildegund Hospital"
    assert clean.StudyInstanceUID == planted.UIDS["study"]
    assert clean.LongitudinalTemporalInformationModified == "MODIFIED"
    assert clean.StudyDate not in ("", "20191224")
    assert clean.StudyTime == "142536.123456"
    assert clean.PatientBirthDate == ""


def test_an_institution_of_any_script_is_retained():
    data = dcmread(io.BytesIO(planted.dicom(1, charset="ISO_IR 100", name=planted.UMLAUT_NAME)))
    data.InstitutionName = "Städtisches Krankenhaus"
    out = io.BytesIO()
    data.save_as(out)
    clean, _ = cleaned(out.getvalue(), retain=["institution"])
    assert clean.InstitutionName == "Städtisches Krankenhaus"
    assert clean.SpecificCharacterSet == "ISO_IR 192"


def test_uids_are_mapped_the_same_everywhere_and_differently_under_another_key():
    first, _ = cleaned(planted.dicom(1))
    second, _ = cleaned(planted.dicom(2, ImplicitVRLittleEndian))
    other, _ = cleaned(planted.dicom(1), key=b"another key for tests")
    assert first.StudyInstanceUID == second.StudyInstanceUID != other.StudyInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.StudyInstanceUID.startswith("2.25.")
    assert len(first.StudyInstanceUID) <= 64
    inner = first.SourceImageSequence[0]
    assert inner.ReferencedSOPInstanceUID == values.mapped_uid(KEY, planted.UIDS["referenced"])
    assert inner.ReferencedSOPClassUID == first.SOPClassUID


def test_the_same_bytes_come_out_every_time():
    assert cleaned(planted.dicom(1))[1].data == cleaned(planted.dicom(1))[1].data


def test_pixels_are_the_same_and_what_hangs_behind_them_goes():
    clean, _ = cleaned(planted.dicom(1))
    assert clean.PixelData == planted.pixels(1).tobytes()


def test_a_compressed_stream_loses_its_comments_and_nothing_else():
    source = planted.dicom(5, JPEGBaseline8Bit)
    clean, made = cleaned(source)
    assert b"JPEGCOMMENT" not in made.data
    assert np.array_equal(clean.pixel_array, dcmread(io.BytesIO(source)).pixel_array)


def overlaid(grey):
    """Return an object of 12 bits in 16 with a bit plane beside them."""
    h = dcmread(io.BytesIO(planted.dicom(1)))
    h.SamplesPerPixel, h.PhotometricInterpretation = 1, "MONOCHROME2"
    del h.PlanarConfiguration
    h.BitsAllocated, h.BitsStored, h.HighBit = 16, 12, 11
    h.PixelData = (grey | 0x8000).tobytes()
    h["PixelData"].VR = "OW"
    h.add_new(0x60000102, "US", 15)
    return h


def saved(h):
    out = io.BytesIO()
    h.save_as(out)
    return out.getvalue()


@pytest.mark.parametrize("high_bit", [11, None, 3, 16])
def test_an_overlay_in_unused_bits_is_cleared(high_bit):
    grey = (np.arange(64 * 64, dtype=np.uint16) % 4096).reshape(64, 64)
    h = overlaid(grey)
    h.HighBit = high_bit
    clean, _ = cleaned(saved(h))
    assert clean.PixelData == grey.tobytes()


def test_an_overlay_in_compressed_pixels_is_refused():
    grey = (np.arange(64 * 64, dtype=np.uint16) % 4096).reshape(64, 64)
    h = overlaid(grey)
    h.compress(RLELossless)
    with pytest.raises(ImageError, match="overlay"):
        cleaned(saved(h))
    h[0x60000102].value = 0  # in an element of its own, which is removed
    assert cleaned(saved(h))


@pytest.mark.parametrize(
    ("sop_class", "code"),
    [
        ("1.2.840.10008.5.1.4.1.1.88.11", "NOT_AN_IMAGE"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "NOT_AN_IMAGE"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "NOT_AN_IMAGE"),
        ("1.2.840.113619.4.2", "WRONG_FORMAT"),
        ("", "WRONG_FORMAT"),
    ],
)
def test_reports_documents_and_private_objects_are_refused(sop_class, code):
    h = dcmread(io.BytesIO(planted.dicom(1)))
    h.SOPClassUID = sop_class
    out = io.BytesIO()
    h.save_as(out)
    with pytest.raises(ImageError) as caught:
        cleaned(out.getvalue())
    assert caught.value.code == code


def test_codes_of_public_schemes_stay_and_get_their_own_meaning():
    h = dcmread(io.BytesIO(planted.dicom(1)))
    known, local = Dataset(), Dataset()
    known.CodeValue, known.CodingSchemeDesignator = "7771000", "SCT"
    known.CodeMeaning = "Zwanzigmann"
    local.CodeValue, local.CodingSchemeDesignator, local.CodeMeaning = "QUIRINA", "99KH", "Quirina"
    h.AnatomicRegionSequence = [known, local]
    out = io.BytesIO()
    h.save_as(out)
    first, second = cleaned(out.getvalue())[0].AnatomicRegionSequence
    assert (first.CodeValue, first.CodeMeaning) == ("7771000", "Left")
    assert (second.CodeValue, second.CodingSchemeDesignator) == ("0", "99HILUM")


SECRET = values.secret_of(KEY, "somebody")


@pytest.mark.parametrize(
    ("vr", "value", "kept"),
    [
        ("DA", "20240229", "20240229"),
        ("DA", "2024.02.29", "20240229"),
        ("DA", "20230229", None),
        ("DA", "Zwanzigm", None),
        ("DT", "20240229120000.5+0100", "20240229120000.5+0100"),
        ("DT", "2024", None),
        ("TM", "235959.999999", "235959.999999"),
        ("TM", "noon", None),
    ],
)
def test_times_that_are_kept_are_times(vr, value, kept):
    assert values.clean_time(vr, value, SECRET, Choice("keep")) == kept
    assert values.clean_time(vr, value, SECRET, Choice("remove")) is None


@given(st.dates(min_value=date(1900, 1, 1)), st.integers(0, 3000))
def test_shifting_keeps_distances(day, apart):
    later = day + timedelta(days=apart) if day.year < 9980 else day
    shifted = [
        values.clean_time("DA", f"{d:%Y%m%d}", SECRET, Choice("shift")) for d in (day, later)
    ]
    first, second = (date(int(s[:4]), int(s[4:6]), int(s[6:])) for s in shifted)
    assert second - first == later - day
    assert timedelta(days=1) <= day - first <= timedelta(days=3650)


@pytest.mark.parametrize(
    ("age", "kept"),
    [
        ("089Y", "089Y"),
        ("090Y", "090Y"),
        ("104Y", "090Y"),
        ("999M", "999M"),
        ("003D", "003D"),
        ("old", None),
    ],
)
def test_ages(age, kept):
    assert values.clean_age(age) == kept


@given(st.binary(max_size=400))
def test_any_bytes_behind_a_dicom_mark_are_cleaned_or_refused(tail):
    try:
        cleaned(bytes(128) + b"DICM" + tail)
    except ImageError as error:
        assert error.code  # noqa: PT017 - either is right


@given(st.integers(140, 4000), st.binary(min_size=1, max_size=6))
def test_a_damaged_object_is_cleaned_or_refused(place, junk):
    data = bytearray(planted.dicom(1))
    data[place : place + len(junk)] = junk
    try:
        _, made = cleaned(bytes(data))
    except ImageError:
        return
    head = made.data[: -64 * 64 * 3]
    assert not {"PRIVATE-SECRET-321", "lives next to the mill", "Rosenkavalierstrasse"} & planted.traces(head)  # fmt: skip


def test_big_endian_stays_big_endian():
    h = planted.header(1)
    for tag in [tag for tag in h.keys() if tag.group >> 8 in (0x50, 0x60)]:  # noqa: SIM118
        del h[tag]
    h.PixelData = planted.pixels(1).tobytes()
    h["PixelData"].VR = "OB"
    h.file_meta = FileMetaDataset()
    h.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    out = io.BytesIO()
    h.save_as(out, enforce_file_format=True)
    clean, _ = cleaned(out.getvalue())
    assert clean.file_meta.TransferSyntaxUID == ExplicitVRBigEndian
    assert clean.PixelData == planted.pixels(1).tobytes()
    assert clean.Rows == 64


def test_profile_lies_beside_its_reader():
    import pipeline.ingest.deidentify as room

    assert (Path(room.__file__).parent / "profile.csv").is_file()
