"""The DICOM half of the road's first half: an object's bytes to the Instance of one of its frames."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from data_schemas.contract import Contract
from data_schemas.errors import ImageError
from data_schemas.files import sha256
from pipeline.imaging import attributes as get
from pipeline.imaging.accept import frames_rule
from pipeline.imaging.attributes import quiet
from pipeline.imaging.dicom import decode_frame, frames_of
from pipeline.imaging.dicom_header import ImageHeader, image_header
from pipeline.imaging.dicom_parse import Parsed, parse
from pipeline.imaging.fragments import Frames
from pipeline.imaging.instance import Instance, Stored
from pipeline.imaging.raw import held_frames
from pipeline.imaging.shrink import divisor


def read_dicom(data: bytes, contract: Contract, frame: int | None) -> Instance:
    """Decode one frame; see :func:`pipeline.imaging.read.read`."""
    header = _header(_parsed(data, contract), contract, frame)
    return _instance(header, sha256(data), contract)


def frames_in_dicom(data: bytes, contract: Contract) -> int:
    """Return how many frames are taken; see :func:`pipeline.imaging.read.frames_in`."""
    return _planned(_parsed(data, contract), contract)[1]


def each_frame(data: bytes, contract: Contract) -> tuple[int, Callable[[int], Instance]]:
    """Return how many frames are gone through, and what decodes one of them; the object is parsed once.

    Of the frames that the object doesn't hold only the first is gone through: it stands for them all.
    """
    parsed = _parsed(data, contract)
    header, count = _planned(parsed, contract)
    found, digest = frames_of(header), sha256(data)
    count = min(count, (held_frames(header) if found is None else len(found)) + 1)

    def one(index: int) -> Instance:
        here = header if count == 1 else _header(parsed, contract, index)
        return _instance(here, digest, contract, found)

    return count, one


def _planned(parsed: Parsed, contract: Contract) -> tuple[ImageHeader, int]:
    """Return the header of the first frame to take, and how many frames are taken."""
    with _reading_header():
        rule = frames_rule(get.text(parsed.header, "SOPClassUID"), contract.accept)
    header = _header(parsed, contract, 0 if rule == "every" else None)
    return header, header.frames if rule == "every" else 1


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


def _instance(
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
        study_key=header.study_key,
    )
