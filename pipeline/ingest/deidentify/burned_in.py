"""Decides whether the pixels of a file may hold a name: the header's word, its kind, and a look."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Accept, Contract, Grey, Limits
from data_schemas.errors import ImageError
from pipeline.imaging.colour import display_levels, with_channels
from pipeline.imaging.instance import Instance
from pipeline.imaging.picture import picture
from pipeline.imaging.read import frames_in, read
from pipeline.imaging.sniff import format_of
from pipeline.imaging.text import text_lines
from pipeline.ingest.deidentify.dicom import Suspicion

SUSPECTS = ("US", "SC", "OT", "XC", "ES", "GM", "DOC", "IVUS")
"""Modalities whose devices write into the picture as a matter of course, or that are screen shots."""


def compared(data: bytes, clean: bytes, limits: Limits) -> Iterator[Instance]:
    """Yield frames of a clean copy, one at a time, each compared with the source's.

    They are every page of a TIFF, and the first, the middle and the last frame of a DICOM object.

    Raises
    ------
    ImageError
        CORRUPT if a copy doesn't hold the very pixels of its source; or if the pixels can't be read:
        what nobody can look at can't be given away.
    """
    formats = ("dicom", "jpeg", "png", "tiff", "jpeg2000", "webp")
    accept = Accept(formats=formats, frames="every", frames_by_class={})
    contract = Contract(name="look", accept=accept, limits=limits, size=4096)
    count = frames_in(data, contract)
    if frames_in(clean, contract) != count:
        raise ImageError("CORRUPT", "the clean copy does not hold as many frames")
    several = {0, count // 2, count - 1} if format_of(data) == "dicom" else set(range(count))
    for place in sorted(several):
        frame = place if count > 1 else None
        before, after = (read(one, contract, frame) for one in (data, clean))
        _require_same_pixels(before, after)
        yield after


def reason_to_set_aside(
    frames: Iterable[Instance], said: Suspicion | None, suspects: tuple[str, ...]
) -> str:
    """Return why a file should be looked at by a person, or an empty string.

    All of ``frames`` are gone through, whatever the first of them shows.
    """
    shown = ""
    for instance in frames:
        shown = shown or _text_in(instance)
    if said is not None and said.annotation == "YES":
        return "the header says that identifying text is in the pixels"
    if shown:
        return shown
    if said is not None and said.annotation != "NO" and said.modality in suspects:
        return (
            f"devices of modality {said.modality} write into the picture, "
            "and the header doesn't say that this one did not"
        )
    return ""


def _text_in(instance: Instance) -> str:
    for shown in _views(instance):
        lines = text_lines(shown)
        if lines:
            marks = max(line.marks for line in lines)
            return f"{len(lines)} row(s) of marks that look like text, the longest of {marks} marks"
    return ""


def _views(instance: Instance) -> Iterator[NDArray[np.uint8]]:
    # as it is shown; and grey values stretched to their own range: whoever gets the copy can do so,
    # and few levels of many (12 bits stored in 16) look like none
    shown = picture(instance)
    yield shown
    if instance.grey is None:
        return
    try:
        levels = display_levels(instance, Grey(window="range"))
    except ImageError:  # one value all over
        return
    stretched = with_channels(levels, 3)
    if not np.array_equal(stretched, shown):
        yield stretched


def _require_same_pixels(before: Instance, after: Instance) -> None:
    one, other = before.pixels, after.pixels
    same = one.dtype == other.dtype and one.shape == other.shape
    if not same or one.tobytes() != other.tobytes():
        raise ImageError("CORRUPT", "the clean copy does not decode to the same pixels")
