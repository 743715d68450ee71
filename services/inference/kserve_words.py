"""What OpenAPI says about requests and answers of the Open Inference Protocol."""

from typing import Any

from data_schemas.card import Card
from services.inference.examples import EXAMPLE_ID, IMAGE_BASE64
from services.inference.openapi import json_body
from services.inference.tensors import InferRequest

_BINARY = {"schema": {"type": "string", "format": "binary"}}

V2_BODY: dict[str, Any] = json_body(
    "The request as JSON; or JSON with binary tensors behind it, its length in the header "
    "`Inference-Header-Content-Length`.",
    InferRequest,
    {
        "id": EXAMPLE_ID,
        "inputs": [{"name": "files", "datatype": "BYTES", "shape": [1], "data": [IMAGE_BASE64]}],
        "outputs": [{"name": "verdict"}, {"name": "probability"}],
    },
)
V2_BODY["content"]["application/octet-stream"] = {
    **_BINARY,
    "example": "(the JSON, then the bytes of the tensors)",
}

_OUTPUT = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string", "enum": ["BYTES", "FP64", "FP32", "INT64"]},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "data": {
            "type": "array",
            "items": {"type": ["number", "string", "null"]},
            "description": "in row-major order; null: the model said nothing about this image",
        },
        "parameters": {
            "type": "object",
            "description": "`binary_data_size`, if it comes in binary",
        },
    },
}


def v2_answer(card: Card) -> dict[str, Any]:
    """Return the OpenAPI response of an answered request."""
    example = {
        "model_name": card.name,
        "model_version": "",
        "id": EXAMPLE_ID,
        "outputs": [
            {"name": "verdict", "datatype": "BYTES", "shape": [1], "data": ["negative"]},
            {"name": "probability", "datatype": "FP64", "shape": [1], "data": [0.25]},
        ],
    }
    schema = {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": _OUTPUT},
        },
    }
    return {
        "description": "The tensors that were asked for, or all.",
        "content": {
            "application/json": {"schema": schema, "example": example},
            "application/octet-stream": {
                **_BINARY,
                "example": "(the JSON, then the bytes of the tensors)",
            },
        },
        "headers": {
            "Inference-Header-Content-Length": {
                "description": "length of the JSON, if binary tensors follow it",
                "schema": {"type": "integer"},
            }
        },
    }
