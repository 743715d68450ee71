"""Bytes to an Instance: sniff, limits, accept rules, decode, in this order. The road's first half.

What reads DICOM is imported at the first DICOM object: a service of photographs starts a quarter of a
second of processor time sooner without it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Contract
from data_schemas.errors import ImageError
from data_schemas.files import sha256
from data_schemas.terms import Format
from pipeline.imaging.accept import require_format
from pipeline.imaging.instance import GreyFacts, Instance, Stored, Window
from pipeline.imaging.limits import check_file
from pipeline.imaging.photograph import pages, read_photograph
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
        from pipeline.imaging.dicom_read import read_dicom

        return read_dicom(data, contract, frame)
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
        from pipeline.imaging.dicom_read import frames_in_dicom

        return frames_in_dicom(data, contract)
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
        from pipeline.imaging.dicom_read import each_frame

        count, one = each_frame(data, contract)
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
