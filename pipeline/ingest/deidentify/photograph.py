"""A photograph's bytes to the bytes of a clean one: pixels untouched, everything else by allow-list."""

import struct
from collections.abc import Callable

from data_schemas.errors import ImageError
from pipeline.imaging import jpeg, tiff
from pipeline.imaging.sniff import format_of
from pipeline.ingest.deidentify.boxes import clean_jpeg2000, clean_webp
from pipeline.ingest.deidentify.jpeg import clean_jpeg
from pipeline.ingest.deidentify.png import clean_png
from pipeline.ingest.deidentify.tiff import clean_tiff


def clean_photograph(data: bytes) -> tuple[bytes, str]:
    """Return the clean bytes and the ending of their file name.

    Raises
    ------
    ImageError
        WRONG_FORMAT for a format that can't be cleaned; TRUNCATED or CORRUPT for broken files.
    """
    form = format_of(data)
    if form not in _CLEANERS:
        raise ImageError("NOT_AN_IMAGE", "the bytes are no format that can be cleaned")
    cleaner, ending = _CLEANERS[form]
    try:
        return cleaner(data), ending
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise ImageError("CORRUPT", "the file contradicts itself") from error


def _clean_jpeg(data: bytes) -> bytes:
    return clean_jpeg(data, orientation=tiff.orientation(jpeg.markers(data).exif))


_CLEANERS: dict[str | None, tuple[Callable[[bytes], bytes], str]] = {
    "jpeg": (_clean_jpeg, ".jpg"),
    "png": (clean_png, ".png"),
    "tiff": (clean_tiff, ".tif"),
    "jpeg2000": (clean_jpeg2000, ".jp2"),
    "webp": (clean_webp, ".webp"),
}
