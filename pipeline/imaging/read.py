"""Bytes to an Instance: sniff, limits, accept rules, decode, in this order. The road's first half."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Contract
from data_schemas.errors import ImageError
from data_schemas.files import sha256
from data_schemas.terms import Format
from pipeline.imaging.accept import require_format
from pipeline.imaging.attributes import quiet
from pipeline.imaging.dicom import decode_frame
from pipeline.imaging.dicom_header import image_header
from pipeline.imaging.dicom_parse import parse
from pipeline.imaging.instance import GreyFacts, Instance, Stored, Window
from pipeline.imaging.limits import check_file
from pipeline.imaging.photograph import read_photograph
from pipeline.imaging.shrink import divisor
from pipeline.imaging.sniff import format_of


def read(data: bytes, contract: Contract) -> Instance:
    """Decode a DICOM object or a JPEG, PNG or TIFF photograph.

    Raises
    ------
    ImageError
        With the code of every way in which ``data`` is not an image that ``contract`` takes.
    """
    check_file(len(data), contract.limits)
    form = format_of(data)
    if form is None:
        raise ImageError("NOT_AN_IMAGE", "the bytes are not DICOM, JPEG, PNG or TIFF")
    require_format(form, contract.accept)
    if form == "dicom":
        return _read_dicom(data, contract)
    found = read_photograph(data, form, contract)
    grey = display_facts(found.pixels, inverted=found.white_is_zero)
    stored = Stored(found.pixels, found.divisor, found.decode)
    size = found.size or found.pixels.shape[:2]
    return _instance(stored, size, sha256(data), form, grey, found.warnings)


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


def _read_dicom(data: bytes, contract: Contract) -> Instance:
    with quiet():
        try:
            header = image_header(parse(data, contract.limits), contract)
        except ImageError:
            raise
        except Exception as error:  # pydicom converts values on access
            raise ImageError("CORRUPT", "the DICOM header can't be read") from error
    step = divisor(header.rows, header.columns, contract, header.aspect)
    pixels, done, warnings = decode_frame(header, step)
    again = None if done == 1 else lambda number: decode_frame(header, number)[0]
    return Instance(
        stored=Stored(pixels, done, again),
        source_sha256=sha256(data),
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
