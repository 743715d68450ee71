"""The contract's accept rules, asked before a pixel is decoded."""

from data_schemas.contract import Accept, FramesRule
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


def require_presentation(intent: str, accept: Accept) -> None:
    """Raise WRONG_PRESENTATION for raw detector data if the contract takes images for presentation."""
    if accept.presentation == "for_presentation" and intent == "FOR PROCESSING":
        raise ImageError(
            "WRONG_PRESENTATION",
            "the image is FOR PROCESSING, the contract takes images for presentation",
        )


def require_view(view: str, accept: Accept) -> None:
    """Raise WRONG_VIEW unless the contract takes this view; a view that isn't given is taken."""
    if accept.views and view and view not in accept.views:
        shown = view if len(view) <= 16 and view.isalnum() else "another"
        raise ImageError(
            "WRONG_VIEW", f"the view is {shown}, the contract takes {', '.join(accept.views)}"
        )


def frames_rule(sop_class: str, accept: Accept) -> FramesRule:
    """Return the contract's rule for objects of several frames of this SOP class."""
    return accept.frames_by_class.get(sop_class, accept.frames)


def choose_frame(frames: int, rule: FramesRule, frame: int | None = None) -> int:
    """Return the index of the frame to take: ``frame`` if it is given, else by the rule.

    Raises
    ------
    ImageError
        MULTIFRAME if single frames only are taken, or if every frame is an image and none was named;
        TRUNCATED if there is no such frame.
    """
    if frames > 1 and rule == "refuse":
        raise ImageError(
            "MULTIFRAME", f"{frames} frames, and the contract takes single frames only"
        )
    if frame is not None:
        if not 0 <= frame < frames:
            raise ImageError("TRUNCATED", f"there is no frame {frame + 1} of {frames}")
        return frame
    if frames > 1 and rule == "every":
        raise ImageError("MULTIFRAME", f"{frames} frames, each of them an image: none was named")
    return frames // 2 if rule == "middle" else 0
