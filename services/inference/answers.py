"""What the service says about itself: the model's summary and its health, as documents of OpenAPI."""

from typing import Literal

from pydantic import Field

from data_schemas.card import Evaluation, OperatingPoint, Output
from data_schemas.contract import Contract
from data_schemas.document import Part
from services.inference.engine import Engine


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
        primary=card.primary,
        operating_points=card.operating_points,
        evaluation=card.evaluation,
        notes=card.notes,
        max_body_bytes=max_body_bytes,
        following=None if news is None else Following(**{k: getattr(news, k) for k in told}),
    )
