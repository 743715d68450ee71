"""What OpenAPI says beyond the routes themselves: bodies, problem bodies, examples."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from data_schemas.score import FindingScore, ModelIdentity, Score, ScoredImage
from pipeline.model.decision import DEFAULT
from pipeline.model.package import Package
from services.inference.access import describe_access
from services.inference.problems import (
    MEDIA_TYPE,
    Problem,
    Refusal,
    known_codes,
    problem_of,
    status_of,
)

DESCRIPTION = """\
One image in, one answer out: calibrated probabilities, the operating point, the verdict, the
digests of the model and of the image, and on request the evidence map.

Refusals are problem bodies after RFC 9457 with a stable `code`. Nothing that is sent is stored.
"""

_BYTES = {"schema": {"type": "string", "format": "binary"}}

SCORE_BODY: dict[str, Any] = {
    "required": True,
    "description": "The bytes of one file, as they are, or a multipart form with the file alone.",
    "content": {
        "application/dicom": _BYTES,
        "image/jpeg": _BYTES,
        "image/png": _BYTES,
        "image/tiff": _BYTES,
        "application/octet-stream": _BYTES,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary"}},
            }
        },
    },
}

_EXAMPLE_ID = "00000000-0000-4000-8000-000000000000"
_DIGEST = "0" * 64


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of the problem bodies with these HTTP statuses."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        codes = [code for code in known_codes() if status_of(code) == status]
        example = {code: {"value": _example(code)} for code in codes}
        found[status] = {
            "description": "Problem: " + ", ".join(f"`{code}`" for code in codes),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": example,
                }
            },
        }
    return found


def score_example(package: Package) -> dict[str, Any]:
    """Return an example of a score in the shape that this package's scores have."""
    card = package.card
    point = next(p for p in card.operating_points if (p.label, p.name) == (card.primary, DEFAULT))
    even = {
        output.label: {name: round(1 / len(output.classes), 4) for name in output.classes}
        for output in card.outputs
    }
    score = Score(
        image=ScoredImage(
            source_sha256=_DIGEST, format="jpeg", rows=1024, columns=1536, prepared_sha256=_DIGEST
        ),
        model=ModelIdentity(
            name=card.name,
            package_sha256=package.sha256,
            contract_sha256=card.contract_sha256,
            runtime="onnxruntime 1.32.0 fp32",
        ),
        verdict="negative",
        primary=card.primary,
        operating_point=point.name,
        threshold=point.high,
        probabilities=even,
        logits=tuple(0.0 for output in card.outputs for _ in output.columns),
        findings=tuple(
            FindingScore(
                name=p.label, probability=0.5 * p.low, low=p.low, high=p.high, state="absent"
            )
            for p in card.operating_points
            if p.name == DEFAULT
        ),
    )
    return score.model_dump(mode="json")


def describe(app: FastAPI) -> None:
    """Let the application describe itself with the documents that no route's signature names."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            tree = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                license_info=app.license_info,
                routes=app.routes,
                tags=[
                    {"name": "scores", "description": "Scoring images."},
                    {"name": "model", "description": "What answers."},
                    {"name": "health", "description": "For whoever runs the service."},
                ],
            )
            _add_schemas(tree, Score, Problem)
            describe_access(tree, problems)
            app.openapi_schema = tree
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _add_schemas(tree: dict[str, Any], *documents: Any) -> None:
    schemas = tree.setdefault("components", {}).setdefault("schemas", {})
    for document in documents:
        schema = document.model_json_schema(
            mode="serialization", ref_template="#/components/schemas/{model}"
        )
        schemas.update(schema.pop("$defs", {}))
        schemas[document.__name__] = schema


def _example(code: str) -> dict[str, Any]:
    refusal = Refusal(code, "One or two sentences about this request.")
    return problem_of(refusal, _EXAMPLE_ID).model_dump(mode="json", exclude_none=True)
