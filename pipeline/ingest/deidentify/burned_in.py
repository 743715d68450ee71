"""Decides whether the pixels of a file may hold a name: the header's word, its kind, and a look."""

from data_schemas.contract import Accept, Contract, Limits
from data_schemas.errors import ImageError
from pipeline.imaging.instance import Instance
from pipeline.imaging.picture import picture
from pipeline.imaging.read import frames_in, read
from pipeline.imaging.text import text_lines
from pipeline.ingest.deidentify.dicom import Suspicion

SUSPECTS = ("US", "SC", "OT", "XC", "ES", "GM", "DOC", "IVUS")
"""Modalities whose devices write into the picture as a matter of course, or that are screen shots."""


def decoded(data: bytes, limits: Limits) -> tuple[int, list[Instance]]:
    """Return how many frames there are, and the first, the middle and the last of them.

    Raises
    ------
    ImageError
        If the pixels can't be read: what nobody can look at can't be given away.
    """
    formats = ("dicom", "jpeg", "png", "tiff", "jpeg2000", "webp")
    accept = Accept(formats=formats, frames="every", frames_by_class={})
    contract = Contract(name="look", accept=accept, limits=limits, size=4096)
    count = frames_in(data, contract)
    places = sorted({0, count // 2, count - 1})
    return count, [read(data, contract, place if count > 1 else None) for place in places]


def reason_to_set_aside(
    found: list[Instance], said: Suspicion | None, suspects: tuple[str, ...]
) -> str:
    """Return why a file should be looked at by a person, or an empty string."""
    if said is not None and said.annotation == "YES":
        return "the header says that identifying text is in the pixels"
    for instance in found:
        lines = text_lines(picture(instance))
        if lines:
            marks = max(line.marks for line in lines)
            return f"{len(lines)} row(s) of marks that look like text, the longest of {marks} marks"
    if said is not None and said.annotation != "NO" and said.modality in suspects:
        return (
            f"devices of modality {said.modality} write into the picture, "
            "and the header doesn't say that this one did not"
        )
    return ""


def require_same_pixels(
    before: tuple[int, list[Instance]], after: tuple[int, list[Instance]]
) -> None:
    """Raise CORRUPT unless a clean copy decodes to the very pixels of its source.

    Where reduced pages were dropped from a TIFF, the first page is compared.
    """
    pairs = list(zip(before[1], after[1], strict=False))
    for one, other in pairs if before[0] == after[0] else pairs[:1]:
        same = one.pixels.dtype == other.pixels.dtype and one.pixels.shape == other.pixels.shape
        if not same or one.pixels.tobytes() != other.pixels.tobytes():
            raise ImageError("CORRUPT", "the clean copy does not decode to the same pixels")
