"""What ingestion's steps hand to one another: a file of a source, an image that was taken, a refusal.

Raw identifiers stand in :class:`SourceFile` only, which stays in memory. Everything that is written
to disk on the way (the journal) holds pseudonyms: keyed hashes that nobody without the key can try out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from data_schemas.terms import Format, Laterality, Split


@dataclass(frozen=True, slots=True, repr=False)
class Given:
    """What a source itself says about a file, where a label table is not needed (MedMNIST)."""

    labels: tuple[int | None, ...]
    split: Split | None = None
    official_test: bool = False
    """Belongs to a published test split, which stays as it was published."""


@dataclass(frozen=True, slots=True, repr=False)
class SourceFile:
    """One file, member or object of a source. No ``repr``: ``place`` may name a patient."""

    place: str
    """Where it is inside the source, with ``/``: unique there, the same on every run."""
    fetch: Callable[[], bytes | NDArray[Any]]
    """Read it. Can be pickled (a ``partial`` of a module's function), so that other processes can."""
    size: int = -1
    """Bytes; -1: not known before it is read."""
    state: str = ""
    """Time of change, ETag or checksum: equal means unchanged since it was last taken. Empty: unknown."""
    given: Given | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Taken:
    """An image that was read and prepared."""

    source_sha256: str
    frame: int
    pixel_sha256: str
    place_key: str
    """Keyed hash of the file's place in the source: joins rows of a label table by file."""
    instance_key: str
    """Keyed hash of the SOP Instance UID, or empty."""
    patient: str
    """Pseudonym of the header's Patient ID, or empty."""
    site: str
    """Pseudonym of the header's Institution Name, or empty."""
    laterality: Laterality
    view: str
    device: str
    format: Format
    modality: str
    rows: int
    columns: int
    features: dict[str, float]
    """Measured quality: sharpness, brightness, field ...; empty if the contract asks for no check."""
    warnings: tuple[str, ...]
    spool_row: int
    """Where its pixels lie in the spool."""
    given: Given | None = None
    study: str = ""
    """Pseudonym of the header's Study Instance UID, or empty."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file, or one frame of it, that was not taken, and why."""

    source_sha256: str
    code: str
    reason: str
    frame: int = -1
    place_key: str = ""
    label_line: int = 0
    thumbnail: bytes | None = None
    """A small JPEG of the prepared picture, where there was one."""
    pixel_sha256: str = ""
    """Digest of the prepared array, where there was one."""
    patient: str = ""
    """Pseudonym, where it is known."""


def refusal_of(image: Taken, code: str, reason: str, line: int) -> Refusal:
    """Return the refusal of an image that was taken; ``line`` is its line in the label table, or 0."""
    return Refusal(
        image.source_sha256,
        code,
        reason,
        frame=image.frame,
        place_key=image.place_key,
        label_line=line,
    )


@dataclass(frozen=True, slots=True, repr=False)
class Known:
    """What labels say about an image that was taken: values joined, identifiers as pseudonyms."""

    labels: tuple[int | None, ...]
    patient: str
    """Pseudonym: the table's patient, else the header's, else the study's, else the file's own."""
    laterality: Laterality
    site: str = ""
    split: Split | None = None
    official_test: bool = False
    where: str = ""
    """The row's place in the label table, as ``file:line``."""
    line: int = 0
    """The line alone."""


@dataclass(frozen=True, slots=True, repr=False)
class Chosen:
    """An image that stays, with its split and fold."""

    taken: Taken
    known: Known
    split: Split
    fold: int = -1
