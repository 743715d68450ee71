"""The data set folder: ``dataset.json``, the columns of its tables, and every reason for refusal."""

from typing import ClassVar

from pydantic import Field

from data_schemas.document import Document, Part
from data_schemas.terms import LabelKind

REFUSALS: dict[str, str] = {
    "NOT_AN_IMAGE": "the bytes are no format that is known, or the object holds no image",
    "WRONG_FORMAT": "the format is known, but the contract doesn't take it",
    "TRUNCATED": "the file ends before its pixels do",
    "CORRUPT": "the decoder refuses the bytes, or header and codestream contradict each other",
    "NO_DECODER": "the transfer syntax or compression has no decoder here",
    "TOO_LARGE": "the header claims more bytes or pixels than the contract's limits",
    "MULTIFRAME": "more than one frame, and the contract takes single frames only",
    "WRONG_MODALITY": "the modality is not one that the contract takes",
    "WRONG_PRESENTATION": "detector data FOR PROCESSING where the contract takes images for presentation",
    "WRONG_VIEW": "the view is not one that the contract takes",
    "NOT_COLOUR": "a grey instance where the contract requires colour",
    "BLANK": "no content: every pixel is the same, or no field of view was found",
    "DUPLICATE": "the same pixels were already taken from another file",
    "CONFLICTING_LABEL": "the same pixels carry different labels",
    "NO_LABEL": "the label table has no row for this file, or an empty label",
    "UNGRADABLE": "a photograph of insufficient quality",
    "NEAR_DUPLICATE": "almost the same pixels as an image of another split",
    "BURNED_IN_TEXT": "the pixels seem to hold text, which may identify a patient",
    "TIMED_OUT": "decoding took longer than the limit and was stopped",
    "UNREADABLE": "the source lists the file, but its storage, archive or server doesn't give its bytes",
    "DECODER_DIED": "the decoder ended its own process, or needed more memory than the limit",
}
"""Every refusal code with its meaning. A code, once published, keeps its meaning."""

MANIFEST_COLUMNS: dict[str, str] = {
    "source_sha256": "SHA-256 of the file's bytes (of the array's bytes for a .npz)",
    "frame": "index of the frame inside the file, from 0",
    "patient": "keyed pseudonym; the unit of splitting",
    "laterality": "L, R, B or U",
    "view": "DICOM view (CC, MLO, PA, ...), or empty",
    "site": "the label table's site, or a keyed pseudonym of the header's institution; empty: unknown",
    "device": "manufacturer and model from the header, or empty",
    "split": "train, tune, calibration, test or external",
    "fold": "0..K-1 of the cross-validation folds; -1 for sealed splits or without folds",
    "pixel_sha256": "SHA-256 of the prepared array",
    "shard": "index of the pixels-*.npy file",
    "row": "index inside the shard",
    "format": "dicom, jpeg, png, tiff, jpeg2000, webp or array",
    "modality": "DICOM modality, or empty",
    "source_rows": "height of the source, pixels",
    "source_columns": "width of the source, pixels",
    "quality": "sufficient or insufficient",
    "label_line": "line of the label table that names the image, 0 without one; not in the digest",
    "warnings": "what was mended on the way, separated by '; '",
}
"""Columns of ``manifest.parquet``, to which ``label_NAME`` is added for every label."""

REFUSAL_COLUMNS: dict[str, str] = {
    "source_sha256": "SHA-256 of the file's bytes",
    "frame": "index of the frame inside the file; -1: the whole file",
    "code": "one of REFUSALS",
    "reason": "one sentence about this file, without its name or identifiers",
    "label_line": "line of the label table that names the file, 0 without one",
    "thumbnail": "the prepared picture as a small JPEG, where there was one; else null",
    "pixel_sha256": "SHA-256 of the prepared array, where there was one: names its twins",
    "patient": "keyed pseudonym, where it is known",
}
"""Columns of ``refusals.parquet``."""


class Label(Part):
    """One column of labels. Class k's meaning is ``classes[k]``; NaN is never stored."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    kind: LabelKind
    classes: tuple[str, ...]
    counts: tuple[int, ...] = Field(description="images of each class")
    missing: int = Field(default=0, description="images whose value is not known")


class Changes(Part):
    """What a new version of a data set changed against the one before."""

    added: int = Field(default=0, description="images that were not there before")
    removed: int = Field(default=0, description="images that are no longer there")
    relabelled: int = Field(default=0, description="images of the same pixels with other labels")


class Leaks(Part):
    """The leak doctor's verdict in numbers; the whole report stands in ``leaks.json``."""

    blocking: int = Field(description="findings that make figures on this split worthless")
    warnings: int = Field(description="findings that a person should look at")


class DatasetInfo(Document):
    """``dataset.json``: what the folder holds and how it came to be."""

    VERSION: ClassVar[int] = 2

    schema_version: int = VERSION
    name: str
    hilum_version: str
    contract_name: str
    contract_sha256: str
    size: int
    channels: int
    images: int
    patients: int
    files_read: int
    refused: dict[str, int] = Field(description="files refused, by code")
    splits: dict[str, int] = Field(description="images in each split")
    folds: int = Field(default=0, description="cross-validation folds; 0: none were asked for")
    labels: tuple[Label, ...]
    shards: tuple[str, ...] = Field(description="file names, in order")
    content_sha256: str = Field(
        description="over the manifest's rows and every prepared array: same input, same digest"
    )
    version: int = Field(default=1, description="counts up when the data set grows or changes")
    previous_sha256: str = Field(default="", description="content of the version before")
    published_test: bool = Field(
        default=False, description="test is a published split, kept whole as it was published"
    )
    changes: Changes = Changes()
    leaks: Leaks | None = Field(default=None, description="None: not examined")
