"""The data set folder: ``dataset.json``, the columns of its tables, and every reason for refusal."""

from typing import ClassVar

from pydantic import Field

from data_schemas.document import Document, Part
from data_schemas.terms import LabelKind

REFUSALS: dict[str, str] = {
    "NOT_AN_IMAGE": "the bytes are not DICOM, JPEG, PNG or TIFF, or the object holds no image",
    "WRONG_FORMAT": "the format is known, but the contract doesn't take it",
    "TRUNCATED": "the file ends before its pixels do",
    "CORRUPT": "the decoder refuses the bytes, or header and codestream contradict each other",
    "NO_DECODER": "the transfer syntax or compression has no decoder here",
    "TOO_LARGE": "the header claims more bytes or pixels than the contract's limits",
    "MULTIFRAME": "more than one frame, and the contract takes single frames only",
    "WRONG_MODALITY": "the modality is not one that the contract takes",
    "NOT_COLOUR": "a grey instance where the contract requires colour",
    "BLANK": "no content: every pixel is the same, or no field of view was found",
    "DUPLICATE": "the same pixels were already taken from another file",
    "CONFLICTING_LABEL": "the same pixels carry different labels",
    "NO_LABEL": "the label table has no row for this file, or an empty label",
    "UNGRADABLE": "a photograph of insufficient quality",
}
"""Every refusal code with its meaning. A code, once published, keeps its meaning."""

MANIFEST_COLUMNS: dict[str, str] = {
    "source_sha256": "SHA-256 of the file's bytes (of the array's bytes for a .npz)",
    "patient": "keyed pseudonym; the unit of splitting",
    "laterality": "L, R, B or U",
    "split": "train, tune, calibration or test",
    "pixel_sha256": "SHA-256 of the prepared array",
    "shard": "index of the pixels-*.npy file",
    "row": "index inside the shard",
    "format": "dicom, jpeg, png, tiff or array",
    "modality": "DICOM modality, or empty",
    "source_rows": "height of the source, pixels",
    "source_columns": "width of the source, pixels",
    "quality": "sufficient or insufficient",
    "warnings": "what was mended on the way, separated by '; '",
}
"""Columns of ``manifest.parquet``, to which ``label_NAME`` is added for every label."""

REFUSAL_COLUMNS: dict[str, str] = {
    "source_sha256": "SHA-256 of the file's bytes",
    "code": "one of REFUSALS",
    "reason": "one sentence about this file, without its name or identifiers",
}
"""Columns of ``refusals.parquet``."""


class Label(Part):
    """One column of labels. Class k's meaning is ``classes[k]``; NaN is never stored."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    kind: LabelKind
    classes: tuple[str, ...]
    counts: tuple[int, ...] = Field(description="images of each class")


class DatasetInfo(Document):
    """``dataset.json``: what the folder holds and how it came to be."""

    VERSION: ClassVar[int] = 1

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
    labels: tuple[Label, ...]
    shards: tuple[str, ...] = Field(description="file names, in order")
    content_sha256: str = Field(
        description="over the manifest's rows and every prepared array: same input, same digest"
    )
