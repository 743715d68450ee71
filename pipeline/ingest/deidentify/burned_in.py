"""Decides whether the pixels of a file may hold a name: the header's word, its kind, and a look."""

from data_schemas.contract import Accept, Contract, Limits
from data_schemas.errors import ImageError
from pipeline.imaging.instance import Instance
from pipeline.imaging.picture import picture
from pipeline.imaging.read import read
from pipeline.imaging.text import text_lines
from pipeline.ingest.deidentify.dicom import Suspicion

SUSPECTS = ("US", "SC", "OT", "XC", "ES", "GM", "DOC", "IVUS")
"""Modalities whose devices write into the picture as a matter of course, or that are screen shots."""


def looks(limits: Limits) -> tuple[Contract, ...]:
    """Return contracts that decode the frames that are looked at: the first and the middle one."""
    return tuple(
        Contract(
            name="look",
            accept=Accept(
                formats=("dicom", "jpeg", "png", "tiff", "jpeg2000", "webp"), frames=frames
            ),
            limits=limits,
        )
        for frames in ("first", "middle")
    )


def decoded(data: bytes, limits: Limits, *, several: bool) -> list[Instance]:
    """Decode the frames that are looked at.

    Raises
    ------
    ImageError
        If the pixels can't be read: what nobody can look at can't be given away.
    """
    contracts = looks(limits)
    return [read(data, contract) for contract in (contracts if several else contracts[:1])]


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
        return f"devices of modality {said.modality} write into the picture, and the header doesn't deny it"
    return ""


def same_pixels(before: list[Instance], after: list[Instance]) -> None:
    """Raise CORRUPT unless a clean copy decodes to the very pixels of its source."""
    for one, other in zip(before, after, strict=True):
        if one.pixels.dtype != other.pixels.dtype or one.pixels.tobytes() != other.pixels.tobytes():
            raise ImageError("CORRUPT", "the clean copy does not decode to the same pixels")
