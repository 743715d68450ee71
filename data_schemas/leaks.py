"""``leaks.json``: what the leak doctor found in a data set, as a person can read it."""

from typing import ClassVar, Literal

from pydantic import Field

from data_schemas.dataset import Leaks
from data_schemas.document import Document, Part

LeakKind = Literal[
    "same_patient",
    "same_pixels",
    "near_duplicate",
    "conflicting_label",
    "other_eye",
    "shortcut",
    "laterality",
]


class LeakFinding(Part):
    """One thing that may let a model look better than it is, or that contradicts the labels."""

    kind: LeakKind
    severity: Literal["blocks", "warns"] = Field(
        description="blocks: figures on this split would be worthless, training refuses the set"
    )
    sentence: str = Field(description="what was found, in words, without identifiers")
    source_sha256: tuple[str, ...] = Field(description="the files concerned, most telling first")
    label_lines: tuple[int, ...] = Field(
        default=(), description="their lines in the label table, 0 where there is none"
    )
    patients: tuple[str, ...] = Field(default=(), description="pseudonyms concerned")
    value: float | None = Field(default=None, description="correlation, AUC or share behind it")


class LeakReport(Document):
    """Everything that was found, the blocking first, and what was looked at."""

    VERSION: ClassVar[int] = 1

    content_sha256: str = Field(description="the data set that was examined")
    images: int
    findings: tuple[LeakFinding, ...] = ()
    examined: tuple[str, ...] = Field(
        default=(), description="checks that were made, each with what it looked at"
    )
    not_examined: tuple[str, ...] = Field(
        default=(), description="checks that this data set has nothing for, each with its reason"
    )

    @property
    def blocking(self) -> int:
        """How many findings block."""
        return sum(finding.severity == "blocks" for finding in self.findings)

    @property
    def warnings(self) -> int:
        """How many findings warn."""
        return len(self.findings) - self.blocking

    def counts(self) -> Leaks:
        """Return the numbers that stand in ``dataset.json``."""
        return Leaks(blocking=self.blocking, warnings=self.warnings)
