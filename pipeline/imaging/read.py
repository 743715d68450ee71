"""Bytes to an Instance: sniff, limits, accept rules, decode, in this order. The road's first half."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Contract
from data_schemas.errors import ImageError
from data_schemas.files import sha256
from data_schemas.terms import Format
from pipeline.imaging import attributes as get
from pipeline.imaging.accept import frames_rule, require_format
from pipeline.imaging.attributes import quiet
from pipeline.imaging.dicom import decode_frame, frames_of
from pipeline.imaging.dicom_header import ImageHeader, image_header
from pipeline.imaging.dicom_parse import Parsed, parse
from pipeline.imaging.fragments import Frames
from pipeline.imaging.instance import GreyFacts, Instance, Stored, Window
from pipeline.imaging.limits import check_file
from pipeline.imaging.photograph import pages, read_photograph
from pipeline.imaging.shrink import divisor
from pipeline.imaging.sniff import format_of


def read(data: bytes, contract: Contract, frame: int | None = None) -> Instance:
    """Decode one frame of a DICOM object, or a JPEG, PNG, TIFF, JPEG 2000 or WebP photograph.

    Parameters
    ----------
    frame
        Index of a frame (page of a TIFF); ``None``: by the contract's rule for several frames.

    Raises
    ------
    ImageError
        With the code of every way in which ``data`` is not an image that ``contract`` takes.
    """
    form = _form(data, contract)
    if form == "dicom":
        header = _header(_parsed(data, contract), contract, frame)
        return _dicom(header, sha256(data), contract)
    found = read_photograph(data, form, contract, frame)
    grey = display_facts(found.pixels, inverted=found.white_is_zero)
    stored = Stored(found.pixels, found.divisor, found.decode)
    size = found.size or found.pixels.shape[:2]
    instance = _instance(stored, size, sha256(data), form, grey, found.warnings)
    return replace(instance, frame=found.frame)


def frames_in(data: bytes, contract: Contract) -> int:
    """Return how many images :func:`instances` looks for: read from headers, nothing is decoded.

    Raises
    ------
    ImageError
        As :func:`read`, where a header is enough to know.
    """
    form = _form(data, contract)
    if form == "dicom":
        return _planned(_parsed(data, contract), contract)[1]
    return pages(data, form) if contract.accept.frames == "every" else 1


def instances(data: bytes, contract: Contract) -> Iterator[Instance | ImageError]:
    """Decode every image of a file, one at a time: one, or under the rule ``every`` each frame.

    The object is parsed once, and one frame's pixels are held at a time.

    Yields
    ------
    Instance or ImageError
        In the order of frames, the error in the place of a frame that can't be decoded. Where the
        file ends too soon, one TRUNCATED stands for all frames that are missing.

    Raises
    ------
    ImageError
        If the file as a whole is refused, or its only frame; nothing was yielded then.
    """
    form = _form(data, contract)
    if form == "dicom":
        parsed = _parsed(data, contract)
        header, count = _planned(parsed, contract)
        found, digest = frames_of(header), sha256(data)

        def one(index: int) -> Instance:
            here = header if count == 1 else _header(parsed, contract, index)
            return _dicom(here, digest, contract, found)
    else:
        count = pages(data, form) if contract.accept.frames == "every" else 1

        def one(index: int) -> Instance:
            return read(data, contract, index if count > 1 else None)

    if count == 1:
        yield one(0)
    else:
        yield from _each(one, count)


def _each(one: Callable[[int], Instance], count: int) -> Iterator[Instance | ImageError]:
    for index in range(count):
        try:
            yield one(index)
        except ImageError as error:
            yield error
            if error.code == "TRUNCATED":
                return


def _planned(parsed: Parsed, contract: Contract) -> tuple[ImageHeader, int]:
    """Return the header of the first frame to take, and how many frames are taken."""
    with _reading_header():
        rule = frames_rule(get.text(parsed.header, "SOPClassUID"), contract.accept)
    header = _header(parsed, contract, 0 if rule == "every" else None)
    return header, header.frames if rule == "every" else 1


def _form(data: bytes, contract: Contract) -> Format:
    check_file(len(data), contract.limits)
    form = format_of(data)
    if form is None:
        raise ImageError(
            "NOT_AN_IMAGE", "the bytes are not DICOM, JPEG, PNG, TIFF, JPEG 2000 or WebP"
        )
    require_format(form, contract.accept)
    return form


def from_array(array: NDArray[Any]) -> Instance:
    """Return an Instance of a uint8 array [H, W] or [H, W, 3], as a ``.npz`` holds them.

    Raises
    ------
    ImageError
        NOT_AN_IMAGE for any other shape or type.
    """
    if (
        array.dtype != np.uint8
        or not (array.ndim == 2 or array.shape[2:] == (3,))
        or not array.size
    ):
        raise ImageError("NOT_AN_IMAGE", "the array is not uint8 [H, W] or [H, W, 3]")
    pixels = np.ascontiguousarray(array)
    grey, digest = display_facts(pixels), sha256(pixels.data)
    return _instance(Stored(pixels), pixels.shape[:2], digest, "array", grey, ())


def display_facts(pixels: NDArray[Any], *, inverted: bool = False) -> GreyFacts | None:
    """Return the facts of a grey photograph: its values are made for display, in their full range."""
    if pixels.ndim == 3:
        return None
    if pixels.dtype.kind not in "iu":
        return GreyFacts(bits=0, signed=True, inverted=inverted)
    bits = pixels.dtype.itemsize * 8
    signed = pixels.dtype.kind == "i"
    window = Window(0.0 if signed else float(1 << (bits - 1)), float(1 << bits))
    return GreyFacts(bits=bits, signed=signed, inverted=inverted, window=window)


def _instance(
    stored: Stored,
    size: tuple[int, ...],
    digest: str,
    form: Format,
    grey: GreyFacts | None,
    warnings: tuple[str, ...],
) -> Instance:
    rows, columns = size
    return Instance(stored, digest, form, "", "U", rows, columns, grey, "", warnings)


@contextmanager
def _reading_header() -> Iterator[None]:
    with quiet():
        try:
            yield
        except ImageError:
            raise
        except Exception as error:  # pydicom converts values on access
            raise ImageError("CORRUPT", "the DICOM header can't be read") from error


def _parsed(data: bytes, contract: Contract) -> Parsed:
    with _reading_header():
        return parse(data, contract.limits)


def _header(parsed: Parsed, contract: Contract, frame: int | None) -> ImageHeader:
    with _reading_header():
        return image_header(parsed, contract, frame)


def _dicom(
    header: ImageHeader, digest: str, contract: Contract, found: Frames | None = None
) -> Instance:
    step = divisor(header.rows, header.columns, contract, header.aspect)
    pixels, done, warnings = decode_frame(header, step, found)
    again = None if done == 1 else lambda number: decode_frame(header, number, found)[0]
    return Instance(
        stored=Stored(pixels, done, again),
        source_sha256=digest,
        format="dicom",
        modality=header.modality,
        laterality=header.laterality,
        rows=header.rows,
        columns=header.columns,
        grey=header.grey,
        patient_key=header.patient_key,
        warnings=(*header.warnings, *warnings),
        aspect=header.aspect,
        frame=header.frame,
        view=header.view,
        device=header.device,
        instance_key=header.instance_key,
        site_key=header.site_key,
    )
