"""Bytes to a parsed DICOM data set, without its pixels touched: capped, checked, quiet."""

import struct
from dataclasses import dataclass
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from data_schemas.contract import Limits
from data_schemas.errors import ImageError
from pipeline.imaging import limits as line

DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True, slots=True, repr=False)
class Parsed:
    """A data set and how its values are stored."""

    header: Dataset
    syntax: str
    little_endian: bool


def parse(data: bytes, limits: Limits) -> Parsed:
    """Parse a DICOM object. Call inside :func:`attributes.quiet`.

    Raises
    ------
    ImageError
        CORRUPT if it can't be parsed; TOO_LARGE if it inflates past the limits; TRUNCATED if a
        deflated object has no end.
    """
    syntax, start = _file_meta(data)
    try:
        if syntax == DEFLATED:
            # pydicom would inflate all of it at once, whatever it comes to
            body = line.inflate(data[start:], line.inflated_cap(len(data), limits))
            header = read_dataset(BytesIO(body), is_implicit_VR=False, is_little_endian=True)
            return Parsed(header, syntax, little_endian=True)
        file = dcmread(BytesIO(data), force=True)
        if not len(file):
            # cut off inside encapsulated pixels, pydicom gives nothing; the header says what it was
            file = dcmread(BytesIO(data), force=True, stop_before_pixels=True)
        meta = getattr(file, "file_meta", None)
        syntax = str(meta.get("TransferSyntaxUID", "") or "") if meta is not None else ""
        implicit_little = file.original_encoding
        return Parsed(file, syntax, little_endian=implicit_little[1] is not False)
    except ImageError:
        raise
    except Exception as error:  # pydicom raises a dozen kinds on broken objects
        raise ImageError("CORRUPT", "the DICOM object can't be parsed") from error


def no_pixels(header: Dataset) -> ImageError:
    """Return the refusal for a data set without pixel data: cut off, or never an image."""
    if "Rows" in header and "Columns" in header:
        return ImageError("TRUNCATED", "the DICOM object ends before its pixel data")
    last = header.get_item(max(header.keys())) if len(header) else None
    claimed = getattr(last, "length", 0)
    value = getattr(last, "value", None)
    if isinstance(value, bytes) and claimed not in (len(value), 0xFFFFFFFF):
        return ImageError("TRUNCATED", "the DICOM object ends inside its header")
    return ImageError("NOT_AN_IMAGE", "the DICOM object holds no pixel data")


def pixel_element(header: Dataset) -> tuple[str, bytes, str] | None:
    """Return the keyword, bytes and VR of the pixel element, or ``None`` without one."""
    for keyword in _PIXELS:
        if keyword in header:
            element = header[keyword]
            if isinstance(element.value, bytes) and element.value:
                return keyword, element.value, str(element.VR)
            raise ImageError("TRUNCATED", "the pixel data are empty")
    return None


def _file_meta(data: bytes) -> tuple[str, int]:
    """Return the transfer syntax of the file meta group and where the data set begins.

    Only what is needed to see a deflated object before a parser does; empty if there is none.
    """
    at = 132 if data[128:132] == b"DICM" else 0
    syntax = ""
    while at + 8 <= len(data):
        group, element, vr, short = struct.unpack("<HH2sH", data[at : at + 8])
        if group != 0x0002:
            break
        body = at + 8
        length = short
        if vr in _LONG_VRS:
            if body + 4 > len(data):
                break
            length = int.from_bytes(data[body : body + 4], "little")
            body += 4
        if element == 0x0010:
            syntax = data[body : body + length].decode("ascii", "replace").strip(" \x00")
        at = body + length
    return syntax, at
