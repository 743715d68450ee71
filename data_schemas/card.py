"""The Card of a model package: what the model is for, how it decides, how well it did."""

from typing import ClassVar, Literal

from pydantic import Field

from data_schemas.document import Document, Part
from data_schemas.terms import Aggregate


class Output(Part):
    """One binary question that the model answers, or one label of exclusive classes."""

    label: str
    classes: tuple[str, ...]
    columns: tuple[int, ...] = Field(
        description="columns of the logits: one (sigmoid) for a binary label, K (softmax) for "
        "classes, K - 1 (sigmoids of `this class or a later one`) for grades"
    )
    link: Literal["softmax", "cumulative"] = Field(
        default="softmax", description="how columns become probabilities; one column: a sigmoid"
    )
    positive_classes: tuple[int, ...] = Field(description="classes that count as positive")
    temperature: float = Field(default=1.0, gt=0, description="logits are divided by it")
    shift: tuple[float, ...] = Field(
        default=(), description="added to each column's logit after the division; empty: nothing"
    )


UNPROVEN = "none"
"""The rule of a point of which the calibration split, all of one class, shows nothing."""


class OperatingPoint(Part):
    """Thresholds on a calibrated probability. positive: p >= high; negative: p < low; else between."""

    label: str
    name: str = "default"
    rule: str
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    images: int = Field(ge=0, description="calibration images it was chosen on")
    positives: int = Field(ge=0)
    sensitivity: float = Field(ge=0, le=1, description="at `high`, on the calibration split")
    specificity: float = Field(ge=0, le=1, description="at `high`, on the calibration split")
    effective_positives: float = Field(
        default=0.0,
        ge=0,
        description="as how many independent images the positive ones count: patients have several "
        "(design effect, Kish 1965); 0: not worked out",
    )
    effective_negatives: float = Field(default=0.0, ge=0)
    coverage: float | None = Field(
        default=None, ge=0, le=1, description="share of calibration images outside low..high"
    )
    risk: float | None = Field(
        default=None, ge=0, le=1, description="share of wrong answers among those"
    )
    band_positives: int | None = Field(
        default=None, ge=0, description="positive images between low and high"
    )
    note: str = ""

    @property
    def proven(self) -> bool:
        """Return whether sensitivity and specificity are measured, and not written for undefined."""
        return self.rule != UNPROVEN


class Interval(Part):
    """A statistic with its 95 % interval, the counts behind it and the method's name."""

    value: float | None = Field(description="None: undefined on these data")
    low: float | None = None
    high: float | None = None
    method: str = ""
    numerator: int | None = None
    denominator: int | None = None


class PrevalenceRow(Part):
    """What a prior correction of one label's probabilities makes of a split (Saerens et al. 2002)."""

    label: str
    prior: Literal["as calibrated", "estimated", "stated"] = Field(
        description="estimated: from the split's scores without its labels; stated: by the user"
    )
    prevalence: float = Field(ge=0, le=1, description="that the probabilities are meant for")
    ece: float | None
    log_loss: float | None
    sensitivity: float | None = Field(description="with the threshold left where it is")
    specificity: float | None
    positive: int = Field(ge=0, description="images at or above the threshold")


class Evaluation(Part):
    """Figures of the test split."""

    dataset_sha256: str
    package_sha256: str = Field(default="", description="the package that was measured")
    split: str
    images: int
    patients: int
    refused: int = 0
    unlabelled: int = Field(
        default=0, description="images of the split left out: none of the model's labels is known"
    )
    statistics: dict[str, Interval] = Field(
        description="auc/LABEL, accuracy/LABEL, sensitivity/LABEL, specificity/LABEL, auc/official ..."
    )
    confusion: dict[str, tuple[tuple[int, ...], ...]] = Field(
        description="per label: rows are the truth, columns the answer"
    )
    prevalence: tuple[PrevalenceRow, ...] = ()
    notes: tuple[str, ...] = ()


class ExportCheck(Part):
    """A graph in one runtime and precision against its reference, on images of the data set."""

    precision: str = Field(description="runtime, version and precision, as scores name them")
    against: str = Field(
        default="torch", description="torch: the network itself; else a runtime of the same package"
    )
    split: str = Field(description="where the images are from; they don't travel in the package")
    images: int = Field(ge=0)
    max_logit_difference: float = Field(ge=0)
    max_probability_difference: float = Field(ge=0, description="calibrated, any label and class")
    changed_verdicts: int = Field(ge=0)
    near_threshold: int = Field(
        ge=0, description="images within 1e-4 of a threshold; their verdicts are equal, too"
    )
    max_evidence_difference: float = Field(
        default=0.0, ge=0, description="|mean of the evidence + bias - logit|"
    )
    from_bytes: int = Field(
        default=0, ge=0, description="images that went as PNG files through the served road"
    )
    refused_bytes: dict[str, int] = Field(
        default_factory=dict, description="of further ones: reason -> files, refused on both sides"
    )


class Card(Document):
    """``card.json``."""

    VERSION: ClassVar[int] = 1

    name: str
    intended_use: str = (
        "Research and demonstration. Not a medical device; no clinical decision may rest on it."
    )
    run_id: str = ""
    hilum_version: str = ""
    git_commit: str = ""
    dataset_name: str
    dataset_sha256: str
    contract_name: str
    contract_sha256: str
    plan_sha256: str
    backbone: str
    parameters: int = Field(ge=0)
    size: int
    channels: Literal[1, 3]
    evidence_stride: int
    outputs: tuple[Output, ...]
    primary: str
    operating_points: tuple[OperatingPoint, ...]
    aggregate: Aggregate = Field(
        default="highest",
        description="how the images of one side become one probability; the patient's is the "
        "highest of the sides'",
    )
    onnx_max_logit_difference: float = Field(
        ge=0, description="ONNX Runtime against torch on the verification images"
    )
    checks: tuple[ExportCheck, ...] = ()
    weights_licence: str = ""
    evaluation: Evaluation | None = None
    notes: tuple[str, ...] = ()
