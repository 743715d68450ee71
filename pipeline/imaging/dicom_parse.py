"""Bytes to a parsed DICOM data set, without its pixels touched: capped, checked, quiet."""

from dataclasses import dataclass

from pydicom.dataset import Dataset

from data_schemas.contract import Limits
from data_schemas.errors import ImageError
from pipeline.imaging import attributes as get
from pipeline.imaging import limits as line
from pipeline.imaging.dicom_elements import Encoding, PixelElement, guess, walk
from pipeline.imaging.sniff import VRS

IMPLICIT = "1.2.840.10008.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
GE_BIG_ENDIAN_PIXELS = "1.2.840.113619.5.2"
_NATIVE = ("1.2.840.10008.1.2.1", DEFLATED, BIG_ENDIAN)
_META = Encoding(implicit=False, little=True)


@dataclass(frozen=True, slots=True, repr=False)
class Parsed:
    """A data set and how its values are stored."""

    header: Dataset
    pixels: PixelElement | None
    syntax: str
    little_endian: bool
    cut: bool
    """The bytes end before an element does."""
    warnings: tuple[str, ...] = ()

    @property
    def compressed(self) -> bool:
        """The transfer syntax says that pixel data are encapsulated."""
        return self.syntax.startswith(f"{IMPLICIT}.") and self.syntax not in _NATIVE


def parse(data: bytes, limits: Limits) -> Parsed:
    """Parse a DICOM object. Call inside :func:`attributes.quiet`.

    Raises
    ------
    ImageError
        CORRUPT if it can't be parsed; TOO_LARGE if it inflates past the limits or has elements
        without end; TRUNCATED if a deflated object has no end.
    """
    # the four letters may also stand in the values of an object without preamble
    plain = data[:2] == b"\x08\x00" and data[4:6] in VRS
    start = 132 if data[128:132] == b"DICM" and not plain else 0
    warnings: list[str] = [] if start else ["no preamble"]
    syntax = ""
    if data[start : start + 2] == b"\x02\x00":
        meta = walk(data, start, guess(data, start, _META), group=0x0002)
        syntax, start = get.text(meta.header, "TransferSyntaxUID"), meta.end
        if meta.cut:
            return Parsed(meta.header, None, syntax, little_endian=True, cut=True)
    if not syntax:
        warnings.append("no transfer syntax: guessed from the first element")
    if syntax == DEFLATED:
        data, start = line.inflate(data[start:], line.inflated_cap(len(data), limits)), 0
    said = _said(syntax)
    found = guess(data, start, said)
    if said is not None and found.implicit != said.implicit:
        warnings.append("the header is not written as the transfer syntax says")
    walked = walk(data, start, found)
    little = found.little and syntax != GE_BIG_ENDIAN_PIXELS
    return Parsed(walked.header, walked.pixels, syntax, little, walked.cut, tuple(warnings))


def no_pixels(parsed: Parsed) -> ImageError:
    """Return the refusal for a data set without pixel data: cut off, or never an image."""
    header = parsed.header
    if parsed.cut:
        return ImageError("TRUNCATED", "the DICOM object ends inside its header")
    if "PixelDataProviderURL" in header:
        return ImageError("NOT_AN_IMAGE", "the DICOM object says that its pixels are elsewhere")
    if "SpectroscopyData" in header:
        return ImageError("NOT_AN_IMAGE", "the DICOM object holds spectra, not pixels")
    if "Rows" in header and "Columns" in header:
        return ImageError("TRUNCATED", "the DICOM object ends before its pixel data")
    if "DirectoryRecordSequence" in header:
        return ImageError("NOT_AN_IMAGE", "the DICOM object is a directory of others (DICOMDIR)")
    return ImageError("NOT_AN_IMAGE", "the DICOM object holds no pixel data")


def _said(syntax: str) -> Encoding | None:
    if not syntax.startswith("1.2.840.10008.1.2") and syntax != GE_BIG_ENDIAN_PIXELS:
        return None
    implicit = syntax in (IMPLICIT, GE_BIG_ENDIAN_PIXELS)
    return Encoding(implicit, little=syntax != BIG_ENDIAN)
