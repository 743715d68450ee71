"""Compressed frames of a DICOM object without the metadata that their streams carry."""

import struct

from pydicom.encaps import encapsulate

from data_schemas.errors import ImageError
from pipeline.imaging.codestream import STARTS
from pipeline.imaging.fragments import split
from pipeline.ingest.deidentify.boxes import blank_comments, clean_jp2, clean_jxl
from pipeline.ingest.deidentify.jpeg import clean_jpeg

_JPEG, _J2K, _JP2, _JXL = STARTS


def clean_pixels(
    value: bytes, frames: int, extended: tuple[int, ...] = ()
) -> tuple[bytes, tuple[bytes, bytes] | None]:
    """Return encapsulated pixel data with every stream cleaned, and extended offsets and lengths.

    Where no stream holds anything to remove, the very same bytes come back, and ``None``.

    Raises
    ------
    ImageError
        If frames can't be told apart, or a stream can't be followed.
    """
    pieces = split(memoryview(value), frames, extended)
    if len(pieces) < frames:
        raise ImageError("TRUNCATED", f"the pixel data end before frame {len(pieces) + 1} does")
    found = [pieces.frame(index) for index in range(frames)]
    cleaned = [clean_stream(frame) for frame in found]
    if all(_same(new, old) for new, old in zip(cleaned, found, strict=True)):
        return value, None
    made = encapsulate(cleaned, has_bot=frames > 1 and not extended)
    if not extended:
        return made, None
    padded = [len(frame) + len(frame) % 2 for frame in cleaned]
    starts = [8 * k + sum(padded[:k]) for k in range(len(padded))]
    count = len(padded)
    lengths = [len(frame) for frame in cleaned]
    return made, (struct.pack(f"<{count}Q", *starts), struct.pack(f"<{count}Q", *lengths))


def clean_stream(frame: bytes) -> bytes:
    """Return one codestream without metadata; what is no known stream comes back as it is."""
    if frame.startswith(_JPEG):
        return clean_jpeg(frame, in_dicom=True)
    if frame.startswith(_J2K):
        return blank_comments(frame)
    if frame.startswith(_JP2):
        return clean_jp2(frame)
    if frame.startswith(_JXL):
        return clean_jxl(frame)
    return frame


def _same(new: bytes, old: bytes) -> bool:
    # one byte of padding to an even length is no metadata
    return new == old or (len(new) % 2 == 1 and new + b"\x00" == old)
