"""Answers that only the service gives: the model's summary, its health, a batch's answers."""

from typing import Literal

from pydantic import Field

from data_schemas.card import Evaluation, OperatingPoint, Output
from data_schemas.contract import Contract
from data_schemas.document import Document, Part
from data_schemas.score import Score
from data_schemas.terms import Aggregate
from services.inference.engine import Engine
from services.inference.problems import Problem


def _is_none(value: object) -> bool:
    return value is None


class Following(Part):
    """How following the alias goes; the old model serves on whatever it says."""

    registry_up: bool = Field(description="whether the registry answered the last look")
    looked_at: float = Field(description="when it last answered, seconds since 1970; 0: not yet")
    refused_version: str = Field(description="version that the alias names and that was refused")
    refused_reason: str = ""


class ModelSummary(Part):
    """The model behind this service: what it is for, what it takes, how it decides, how it did."""

    name: str
    version: str = Field(description="version in the registry; empty for a package folder")
    intended_use: str
    package_sha256: str
    contract_sha256: str
    runtime: str = Field(description="runtime, its version and its precision; empty until loaded")
    backbone: str
    parameters: int
    dataset_name: str
    dataset_sha256: str
    contract: Contract = Field(description="which files are taken and how they become pixels")
    outputs: tuple[Output, ...]
    aggregate: Aggregate = Field(
        description="how the images of one side of a patient become one probability"
    )
    primary: str = Field(description="the label that the verdict is about")
    operating_points: tuple[OperatingPoint, ...]
    evaluation: Evaluation | None = None
    notes: tuple[str, ...] = ()
    max_body_bytes: int
    following: Following | None = Field(
        default=None, description="what is known of the alias; null where none is followed"
    )


class Health(Part):
    """Whether the process answers, or whether it can score."""

    status: Literal["ok", "ready"]


class ImageAnswer(Part):
    """One file of a batch: its score, or what is wrong with it."""

    score: Score | None = Field(default=None, exclude_if=_is_none)
    problem: Problem | None = Field(default=None, exclude_if=_is_none)


class BatchAnswer(Document):
    """Many independent images, one answer each, in the order of the files."""

    answers: tuple[ImageAnswer, ...]


class Prediction(Score):
    """A row's score, as /v1/scores answers it, with the primary finding's probability beside it."""

    probability: float | None = Field(description="of the primary finding; null: not judged")


class Predictions(Part):
    """The answer to a client of MLflow."""

    predictions: tuple[Prediction, ...]


def summary_of(engine: Engine, max_body_bytes: int) -> ModelSummary:
    """Return the summary of the engine's package."""
    card, news, told = engine.package.card, engine.news, tuple(Following.model_fields)
    return ModelSummary(
        name=card.name,
        version=engine.version,
        intended_use=card.intended_use,
        package_sha256=engine.package.sha256,
        contract_sha256=card.contract_sha256,
        runtime="" if engine.loaded is None else engine.loaded.runtime.identity,
        backbone=card.backbone,
        parameters=card.parameters,
        dataset_name=card.dataset_name,
        dataset_sha256=card.dataset_sha256,
        contract=engine.package.contract,
        outputs=card.outputs,
        aggregate=card.aggregate,
        primary=card.primary,
        operating_points=card.operating_points,
        evaluation=card.evaluation,
        notes=card.notes,
        max_body_bytes=max_body_bytes,
        following=None if news is None else Following(**{k: getattr(news, k) for k in told}),
    )
