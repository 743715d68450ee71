"""The Score: the whole answer about one image, as sent over HTTP and as read by the report writer."""

import operator
from typing import ClassVar

from pydantic import Field

from data_schemas.document import Document, Part
from data_schemas.terms import FindingState, Format, Laterality, Verdict


class ScoredImage(Part):
    """Which image was scored; nothing here identifies a person."""

    source_sha256: str
    format: Format
    modality: str = ""
    laterality: Laterality = "U"
    rows: int
    columns: int
    prepared_sha256: str = Field(
        description="SHA-256 of the array that the network saw; empty: it saw none"
    )
    warnings: tuple[str, ...] = ()


class ModelIdentity(Part):
    """Which model answered."""

    name: str
    version: str = ""
    package_sha256: str
    contract_sha256: str
    runtime: str = Field(description="runtime, its version and its precision")


class QualityAnswer(Part):
    """Whether the photograph can be judged, and the measured features."""

    sufficient: bool = True
    reasons: tuple[str, ...] = ()
    features: dict[str, float] = Field(default_factory=dict)


class ScopeAnswer(Part):
    """Whether the image is one that the model was made for; docs/scope.md."""

    inside: bool = True
    reasons: tuple[str, ...] = ()
    distance: float | None = Field(
        default=None,
        ge=0,
        description="how far the embedding is from those of the training images; None: not measured",
    )
    limit: float | None = Field(
        default=None, description="a larger distance is outside; None: not measured"
    )


class FindingScore(Part):
    """One binary answer. ``state`` follows from the probability and the two limits.

    Of an image outside what the model was made for, the state is ``not_assessed`` whatever the
    probability is.
    """

    name: str
    probability: float | None = Field(
        ge=0, le=1, description="calibrated; None: the image could not be judged"
    )
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    state: FindingState


class PointState(Part):
    """What one operating point of the card makes of a finding's probability."""

    label: str
    name: str = Field(description="of the operating point")
    rule: str
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    state: FindingState


class EvidenceMap(Part):
    """Where a logit comes from. ``mean(values) + bias`` is the logit (before the temperature)."""

    label: str
    class_index: int
    or_later: bool = Field(
        default=False, description="of grades: the logit is that of this class or a later one"
    )
    values: tuple[tuple[float, ...], ...] = Field(
        description="[h][w], contributions to the logit; empty where only the picture was asked for"
    )
    bias: float
    logit: float
    region: tuple[int, int, int, int] = Field(
        description="top, left, height, width of the map on the source picture, pixels"
    )
    overlay_png: str = Field(
        default="", description="base64 PNG of the map over the picture; empty: not asked for"
    )


class Score(Document):
    """One image, one answer."""

    VERSION: ClassVar[int] = 1

    image: ScoredImage
    model: ModelIdentity
    verdict: Verdict
    primary: str
    operating_point: str
    threshold: float = Field(description="`high` of the operating point of the primary label")
    probabilities: dict[str, dict[str, float]] = Field(
        description="label -> class -> calibrated probability. With the verdict out_of_scope they"
        " are what the network says about an image that it wasn't made for: no answer rests on them"
    )
    logits: tuple[float, ...]
    findings: tuple[FindingScore, ...]
    quality: QualityAnswer = QualityAnswer()
    scope: ScopeAnswer | None = Field(
        default=None, description="null: of a kind that is taken, and the model keeps no reference"
    )
    evidence: tuple[EvidenceMap, ...] = ()
    score_id: str = Field(
        default="", description="random; names this score's receipt. Empty: no receipt is kept"
    )
    # left out where nobody asked for them: an answer without them is what it always was
    embedding: tuple[float, ...] = Field(
        default=(),
        exclude_if=operator.not_,
        description="[D], what the network saw in the image; there if it was asked for",
    )
    points: tuple[PointState, ...] = Field(
        default=(),
        exclude_if=operator.not_,
        description="every finding at every operating point of the card; there if asked for",
    )
