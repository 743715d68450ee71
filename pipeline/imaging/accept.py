"""The contract's accept rules, asked before a pixel is decoded."""

from data_schemas.contract import Accept
from data_schemas.errors import ImageError
from data_schemas.terms import Format


def require_format(found: Format, accept: Accept) -> None:
    """Raise WRONG_FORMAT unless the contract takes this format."""
    if found not in accept.formats:
        raise ImageError(
            "WRONG_FORMAT", f"the file is {found}, the contract takes {', '.join(accept.formats)}"
        )


def require_modality(modality: str, accept: Accept) -> None:
    """Raise WRONG_MODALITY unless the contract takes this DICOM modality."""
    if accept.modalities and modality not in accept.modalities:
        # a header's free text is not repeated: only a short code is
        shown = modality if len(modality) <= 16 and modality.isalnum() else "not given"
        raise ImageError(
            "WRONG_MODALITY",
            f"the modality is {shown}, the contract takes {', '.join(accept.modalities)}",
        )


def require_colour(colour: bool, accept: Accept) -> None:
    """Raise NOT_COLOUR for a grey instance if the contract requires colour."""
    if accept.colour == "required" and not colour:
        raise ImageError("NOT_COLOUR", "the image is grey, the contract takes colour only")


def choose_frame(frames: int, accept: Accept) -> int:
    """Return the index of the frame to take; raise MULTIFRAME if the contract takes single frames."""
    if frames == 1 or accept.frames == "first":
        return 0
    if accept.frames == "middle":
        return frames // 2
    raise ImageError("MULTIFRAME", f"{frames} frames, and the contract takes single frames only")
