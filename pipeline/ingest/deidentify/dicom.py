"""A DICOM file's bytes to the bytes of a clean one: header, pixels, file meta and preamble."""

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.uid import UID

from data_schemas.contract import Limits
from data_schemas.errors import ImageError
from data_schemas.version import our_version
from pipeline.imaging import attributes as get
from pipeline.imaging.dicom_parse import BIG_ENDIAN, DEFLATED, IMPLICIT, Parsed, no_pixels, parse
from pipeline.imaging.fragments import ITEM
from pipeline.ingest.deidentify import values
from pipeline.ingest.deidentify.encapsulated import clean_pixels
from pipeline.ingest.deidentify.header import (
    Cleaning,
    clean_header,
    with_character_set,
    words_of_names,
)
from pipeline.ingest.deidentify.profile import Choice
from pipeline.ingest.patients import pseudonym

IMPLEMENTATION = "2.25.117236415268190532498130570927419386521"
_EXPLICIT = "1.2.840.10008.1.2.1"
_NATIVE = (IMPLICIT, _EXPLICIT, BIG_ENDIAN, DEFLATED)
_NO_PICTURE = (
    ("1.2.840.10008.5.1.4.1.1.88.", "a structured report"),
    ("1.2.840.10008.5.1.4.1.1.11.", "a presentation state"),
    ("1.2.840.10008.5.1.4.1.1.104.", "an encapsulated document"),
    ("1.2.840.10008.5.1.4.1.1.9.", "a waveform"),
    ("1.2.840.10008.1.3.10", "a directory of a medium"),
)


@dataclass(frozen=True, slots=True, repr=False)
class CleanObject:
    """The bytes of a clean object, and its place among the others: all pseudonyms."""

    data: bytes
    patient: str
    study: str
    series: str


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What a header says about text in the pixels."""

    annotation: str
    """Burned In Annotation (0028,0301): YES, NO or empty."""
    modality: str


def clean_object(
    data: bytes, *, key: bytes, choice: Choice, limits: Limits, digest: str
) -> CleanObject:
    """Return a clean copy of a DICOM image.

    Parameters
    ----------
    key
        Key of the pseudonyms, the mapped UIDs and the moved dates.
    digest
        SHA-256 of ``data``; stands for the patient and the instance where the header names none.

    Raises
    ------
    ImageError
        NOT_AN_IMAGE, WRONG_FORMAT, CORRUPT or TRUNCATED.
    """
    with get.quiet():
        try:
            return _cleaned(parse(data, limits), key, choice, digest)
        except ImageError:
            raise
        except Exception as error:  # pydicom raises a dozen kinds on broken objects
            raise ImageError("CORRUPT", "the DICOM object can't be written anew") from error


def suspicion(data: bytes, limits: Limits) -> Suspicion:
    """Return what the header says about text in the pixels."""
    with get.quiet():
        header = parse(data, limits).header
        return Suspicion(
            get.text(header, "BurnedInAnnotation").upper(), get.text(header, "Modality").upper()
        )


def _cleaned(parsed: Parsed, key: bytes, choice: Choice, digest: str) -> CleanObject:
    if parsed.syntax and not parsed.syntax.startswith(IMPLICIT):
        raise ImageError("WRONG_FORMAT", "the transfer syntax is a maker's own")
    implicit = _is_implicit(parsed)
    source = with_character_set(parsed.header)
    sop_class = _sop_class(source)
    patient = get.text(source, "PatientID")
    study, series = get.text(source, "StudyInstanceUID"), get.text(source, "SeriesInstanceUID")
    secret = values.secret_of(key, patient or study or digest)
    header = clean_header(source, Cleaning(secret, choice, words_of_names(source)))
    _pixels(parsed, header)
    header.SOPClassUID = sop_class
    instance = get.text(source, "SOPInstanceUID") or digest
    header.SOPInstanceUID = values.clean_uid(instance, secret, choice)
    name = pseudonym(key, patient) if patient else pseudonym(key, f"no patient:{study or digest}")
    header.PatientID = header.PatientName = name
    _say_so(header, choice)
    return CleanObject(
        _bytes(header, parsed, implicit=implicit),
        name,
        pseudonym(key, f"study:{study or digest}"),
        pseudonym(key, f"series:{series or study or digest}"),
    )


def _sop_class(source: Dataset) -> str:
    sop_class = get.text(source, "SOPClassUID")
    for start, name in _NO_PICTURE:
        if sop_class.startswith(start):
            raise ImageError("NOT_AN_IMAGE", f"the DICOM object is {name}, which holds free text")
    if not values.is_well_known(sop_class):
        raise ImageError(
            "WRONG_FORMAT", "the SOP class is missing or private: nobody knows what stands in it"
        )
    return sop_class


def _pixels(parsed: Parsed, header: Dataset) -> None:
    """Copy the pixels: the same bytes, but metadata inside compressed streams and what hangs behind."""
    if parsed.pixels is None:
        raise no_pixels(parsed)
    keyword, vr = parsed.pixels.keyword, parsed.pixels.vr
    value = bytes(parsed.pixels.value)
    if not value:
        raise ImageError("TRUNCATED", "the pixel data are empty")
    encapsulated = value.startswith(ITEM)
    frames = max(1, get.integer(parsed.header, "NumberOfFrames") or 1)
    if encapsulated != (parsed.syntax not in (*_NATIVE, "")):
        raise ImageError("CORRUPT", "the pixel data are not stored as the transfer syntax says")
    unused = _overlaid_bits(parsed.header)
    if encapsulated:
        if unused:
            raise _overlaid()
        extended = _offsets(parsed.header)
        value, tables = clean_pixels(value, frames, extended)
        if tables is not None:
            header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths = tables
    else:
        value = _without_tail(parsed.header, value, frames)
        if unused:
            value = _without_overlay(parsed, value, unused)
    header.add(DataElement(tag_for_keyword(keyword) or 0, "OB" if encapsulated else vr, value))
    header[keyword].is_undefined_length = encapsulated


def _offsets(header: Dataset) -> tuple[int, ...]:
    value = header.get("ExtendedOffsetTable")
    if not isinstance(value, bytes):
        return ()
    return struct.unpack(f"<{len(value) // 8}Q", value[: len(value) // 8 * 8])


def _without_tail(header: Dataset, value: bytes, frames: int) -> bytes:
    # bytes behind the last pixel could be anything
    sides = [get.integer(header, name) for name in ("Rows", "Columns", "BitsAllocated")]
    samples = get.integer(header, "SamplesPerPixel") or 1
    if None in sides:
        return value
    bits = samples * frames
    for side in sides:
        bits *= side or 0
    size = (bits + 7) // 8
    size += size % 2
    return value[:size] if 0 < size < len(value) else value


def _overlaid_bits(header: Dataset) -> int:
    """Return the bits beside the stored ones if the header keeps an overlay there (PS3.5 8.1.2), else 0."""
    planes = [
        tag
        for tag in header.keys()  # noqa: SIM118 - a data set iterates over elements
        if tag.group & 0xFF00 == 0x6000 and tag.element == 0x0102
    ]
    if not any(header[tag].value for tag in planes):
        return 0
    allocated = get.integer(header, "BitsAllocated") or 0
    stored = get.integer(header, "BitsStored") or allocated
    if not 0 < stored <= allocated:
        raise ImageError("CORRUPT", f"Bits Stored is {stored} of {allocated} allocated bits")
    high = get.integer(header, "HighBit")
    if high is None or not stored - 1 <= high < allocated:
        high = stored - 1  # as it is decoded
    return ((1 << allocated) - 1) ^ (((1 << stored) - 1) << (high + 1 - stored))


def _without_overlay(parsed: Parsed, value: bytes, unused: int) -> bytes:
    """Clear the unused bits of native values."""
    allocated = get.integer(parsed.header, "BitsAllocated") or 0
    if allocated not in (8, 16, 32, 64):
        raise _overlaid()
    order = "<" if parsed.little_endian else ">"
    whole = len(value) // (allocated // 8) * (allocated // 8)
    numbers = np.frombuffer(value[:whole], f"{order}u{allocated // 8}")
    mask = numbers.dtype.type((1 << allocated) - 1 - unused)
    cleared: bytes = (numbers & mask).astype(numbers.dtype).tobytes()
    return cleared + value[whole:]


def _overlaid() -> ImageError:
    what = "an overlay may lie in bits beside the stored ones, where it can't be cleared"
    return ImageError("WRONG_FORMAT", what)


def _say_so(header: Dataset, choice: Choice) -> None:
    # PS3.15 E.1.1: what a de-identifier writes back
    header.PatientIdentityRemoved = "YES"
    header.DeidentificationMethod = f"hilum {our_version()[:40]}, PS3.15 E"
    entries = []
    for value, meaning in choice.codes():
        entry = Dataset()
        entry.CodeValue, entry.CodingSchemeDesignator, entry.CodeMeaning = value, "DCM", meaning
        entries.append(entry)
    header.DeidentificationMethodCodeSequence = Sequence(entries)
    header.LongitudinalTemporalInformationModified = choice.longitudinal
    if "institution" in choice.retain:
        header.SpecificCharacterSet = "ISO_IR 192"  # else nothing but ASCII is left
    elif "SpecificCharacterSet" in header:
        del header.SpecificCharacterSet


def _is_implicit(parsed: Parsed) -> bool:
    for tag in parsed.header.keys():  # noqa: SIM118 - a data set iterates over elements
        element: Any = parsed.header.get_item(tag)
        if isinstance(element, RawDataElement):
            return bool(element.is_implicit_VR)
    return True


def _bytes(header: Dataset, parsed: Parsed, *, implicit: bool) -> bytes:
    little = parsed.little_endian
    syntax = str(parsed.syntax)
    if syntax == DEFLATED:
        implicit = False
    elif syntax in (*_NATIVE, ""):
        # as it is stored, which isn't always what its file meta says
        syntax = IMPLICIT if implicit else (_EXPLICIT if little else BIG_ENDIAN)
    else:
        implicit, little = False, True
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = header.SOPClassUID
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID = UID(IMPLEMENTATION)
    meta.ImplementationVersionName = "HILUM"
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    stream.write(bytes(128) + b"DICM")
    write_file_meta_info(stream, meta)
    body = DicomBytesIO()
    body.is_little_endian, body.is_implicit_VR = little, implicit
    write_dataset(body, header)
    written: bytes = body.getvalue()
    if syntax == DEFLATED:
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        written = packer.compress(written) + packer.flush()
        written += bytes(len(written) % 2)
    return bytes(stream.getvalue()) + written
