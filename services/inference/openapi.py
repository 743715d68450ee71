"""What OpenAPI says beyond the routes themselves: bodies, problem bodies, examples."""

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from data_schemas.patient import PatientScore
from data_schemas.score import Score
from services.inference.access import describe_access
from services.inference.answers import BatchAnswer, Predictions
from services.inference.examples import FILE_EXAMPLE, problem_example
from services.inference.problems import MEDIA_TYPE, Problem, known_codes, status_of
from services.inference.tensors import InferRequest

DESCRIPTION = """\
Images in, answers out: calibrated probabilities, the operating point, the verdict, the digests of
the model and of the image, and on request evidence maps, the embedding and all operating points.

Refusals are problem bodies after RFC 9457 with a stable `code`. Nothing that is sent is stored.
"""

_BYTES = {"schema": {"type": "string", "format": "binary"}, "example": FILE_EXAMPLE}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}

SCORE_BODY: dict[str, Any] = {
    "required": True,
    "description": "The bytes of one file, as they are, or a multipart form with one file, or "
    "with the files of one patient. The parts' names don't matter, but `left` and `right`.",
    "content": {
        "application/dicom": _BYTES,
        "image/jpeg": _BYTES,
        "image/png": _BYTES,
        "image/tiff": _BYTES,
        "application/octet-stream": _BYTES,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": _FILES, "left": _FILES, "right": _FILES},
                "minProperties": 1,
                "additionalProperties": False,
            },
            "example": {"right": [FILE_EXAMPLE], "left": [FILE_EXAMPLE]},
        },
    },
}

BATCH_BODY: dict[str, Any] = {
    "required": True,
    "description": "A multipart form with the files. The parts' names don't matter.",
    "content": {
        "multipart/form-data": {
            "schema": {"type": "object", "required": ["file"], "properties": {"file": _FILES}},
            "example": {"file": [FILE_EXAMPLE, FILE_EXAMPLE]},
        }
    },
}

PATIENCE: dict[str, Any] = {
    "name": "X-Request-Timeout",
    "in": "header",
    "required": False,
    "description": "seconds that the client will wait; never more than the service's own limit",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of the problem bodies with these HTTP statuses."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        codes = [code for code in known_codes() if status_of(code) == status]
        example = {code: {"value": problem_example(code)} for code in codes}
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


def json_answer(description: str, *documents: str, **examples: Any) -> dict[str, Any]:
    """Return the OpenAPI response that is one of these documents, with an example of each."""
    schemas = [{"$ref": f"#/components/schemas/{name}"} for name in documents]
    return {
        "description": description,
        "content": {
            "application/json": {
                "schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas},
                "examples": {name: {"value": value} for name, value in examples.items()},
            }
        },
    }


def own_answer(description: str, example: BaseModel) -> dict[str, Any]:
    """Return the OpenAPI response of a route whose signature names its schema, with an example."""
    return {
        "description": description,
        "content": {"application/json": {"example": example.model_dump(mode="json")}},
    }


def json_body(description: str, schema: Any, example: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI request body of JSON; ``schema``: one, or a model that has one."""
    if not isinstance(schema, dict):
        schema = {"$ref": f"#/components/schemas/{schema.__name__}"}
    return {
        "required": True,
        "description": description,
        "content": {"application/json": {"schema": schema, "example": example}},
    }


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
                    {
                        "name": "open inference protocol",
                        "description": "The same scores for clients of KServe and Triton (V2).",
                    },
                    {"name": "mlflow", "description": "The same scores for clients of MLflow."},
                    {"name": "health", "description": "For whoever runs the service."},
                ],
            )
            _add_schemas(tree, Score, PatientScore, BatchAnswer, Predictions, Problem)
            _add_schemas(tree, InferRequest, mode="validation")
            _leave_out_validation(tree)
            describe_access(tree, problems)
            app.openapi_schema = tree
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _leave_out_validation(tree: dict[str, Any]) -> None:
    """Take out the framework's own answer for wrong parameters: here that is a problem body."""
    for path in tree["paths"].values():
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                # only a path's words are read there, and any text is a word
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        tree["components"]["schemas"].pop(name, None)


def _add_schemas(
    tree: dict[str, Any],
    *documents: type[BaseModel],
    mode: Literal["serialization", "validation"] = "serialization",
) -> None:
    schemas = tree.setdefault("components", {}).setdefault("schemas", {})
    for document in documents:
        schema = document.model_json_schema(mode=mode, ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[document.__name__] = schema
