"""The Fingerprint: what was measured of a data set and of the machine before a plan is made."""

from typing import ClassVar

from pydantic import Field

from data_schemas.document import Document, Part
from data_schemas.terms import LabelKind


class Cut(Part):
    """A binary label that is an ordinal one, cut in two."""

    label: str = Field(description="the binary label")
    grade: int = Field(ge=1, description="it is 1 from this grade on")
    agreement: float = Field(ge=0, le=1, description="share of training images where that holds")


class LabelFacts(Part):
    """One label, counted."""

    name: str
    kind: LabelKind
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]] = Field(description="per split: images of each class")
    missing: dict[str, int] = Field(description="per split: images whose value is not known")
    cut: Cut | None = Field(
        default=None, description="of an ordinal label: the binary label that cuts it best"
    )

    def known(self, split: str) -> int:
        """Return the images of a split whose value is known."""
        return sum(self.counts.get(split, ()))


class Spread(Part):
    """Lowest, middle and highest of a set of numbers."""

    low: float
    median: float
    high: float


class Intensity(Part):
    """Brightness of training images, 0..255, on a bounded subset that is always the same."""

    images: int = Field(ge=0, description="training images that were looked at, evenly spaced")
    mean: tuple[float, ...] = Field(description="per channel")
    sd: tuple[float, ...] = Field(description="per channel, over pixels and images")
    colour: float = Field(
        ge=0, description="mean distance of a pixel's channels from their mean; 0: grey"
    )
    black_border: float = Field(
        ge=0, le=1, description="share of pixels that are black from the left or right edge inwards"
    )


class Gpu(Part):
    """The graphics processor that a training would use."""

    name: str
    memory_bytes: int = Field(ge=0)
    bf16: bool


class Machine(Part):
    """What a training may use here."""

    cores: int = Field(ge=1, description="by affinity and by a container's quota")
    memory_bytes: int = Field(ge=0, description="available now, by the machine and by cgroups")
    bf16: bool = Field(description="the processor multiplies bfloat16 in hardware")
    gpu: Gpu | None = None
    versions: dict[str, str] = Field(description="of hilum, Python and the libraries that train")
    pretrained: tuple[str, ...] = Field(
        description="backbones whose ImageNet weights are installed here"
    )


class Fingerprint(Document):
    """``fingerprint.json``: everything that the rules of a plan look at."""

    VERSION: ClassVar[int] = 1

    dataset: str
    dataset_sha256: str
    contract: str
    region: str = Field(description="what the contract crops to")
    modalities: dict[str, int] = Field(description="images by DICOM modality; empty: not said")
    formats: dict[str, int]
    size: int = Field(ge=1, description="side of the stored images, px")
    channels: int
    images: dict[str, int] = Field(description="per split")
    patients: dict[str, int] = Field(description="per split")
    images_per_patient: Spread | None
    source_side: Spread | None = Field(
        description="shorter side of the sources, px; none: not in the manifest"
    )
    laterality_known: float = Field(ge=0, le=1, description="share of images with a side")
    folds: int = Field(ge=0, description="cross-validation folds in the manifest")
    labels: tuple[LabelFacts, ...]
    intensity: Intensity
    machine: Machine
