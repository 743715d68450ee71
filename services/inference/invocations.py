"""The routes of ``mlflow models serve``: the same scores for clients of MLflow."""

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from data_schemas.document import Part
from pipeline.model.wanted import SCORE_ALONE, Wanted
from services.inference.about import check_ready
from services.inference.answers import Health, Prediction, Predictions
from services.inference.body import JSON_WEIGHT, too_many
from services.inference.desk import Desk
from services.inference.examples import IMAGE_BASE64, predictions_example
from services.inference.kserve_tensors import primary_probability
from services.inference.openapi import PATIENCE, json_answer, json_body, own_answer, problems
from services.inference.problems import Refusal
from services.inference.scores import Evidence, answered, wanted_of
from services.inference.tensors import faults_of
from services.inference.trees import bytes_of, check_plain

COLUMN = "image"
"""Name of the column that holds images; where there is one column only, any name does."""

FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")

_TEXT = {"type": "string", "format": "byte", "minLength": 4}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1}
_ROW = {"type": "object", "required": [COLUMN], "properties": {COLUMN: _TEXT}}
_ROWS = {"type": "array", "items": _ROW, "minItems": 1}
_SCHEMA = {
    "type": "object",
    "minProperties": 1,
    "properties": {
        "dataframe_split": {
            "type": "object",
            "required": ["columns", "data"],
            "properties": {
                "columns": {"type": "array", "minItems": 1},
                "data": {"type": "array", "items": {"type": "array"}, "minItems": 1},
                "index": {"type": "array"},
            },
        },
        "dataframe_records": _ROWS,
        "instances": {"anyOf": [_TEXTS, _ROWS]},
        "inputs": {"anyOf": [_TEXTS, {"type": "object", "additionalProperties": _TEXTS}]},
        "params": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "evidence": {"enum": [True, False, "png", "array", "both"]},
                "embedding": {"type": "boolean"},
                "points": {"enum": ["all", None]},
            },
        },
    },
}
_EXAMPLE = {
    "dataframe_split": {"columns": [COLUMN], "data": [[IMAGE_BASE64]]},
    "params": {"evidence": "png"},
}


class _Params(Part):
    """Options of a request, as those of a query of /v1/scores."""

    evidence: bool | Evidence = False
    embedding: bool = False
    points: Literal["all"] | None = None


def invocation_routes(desk: Desk) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["mlflow"])

    @router.get(
        "/ping",
        operation_id="ping",
        responses={200: own_answer("It can score.", Health(status="ready")), **problems(500, 503)},
    )
    async def ping() -> Health:
        """Answer 200 once images would be scored."""
        await check_ready(desk.engine)
        return Health(status="ready")

    @router.post(
        "/invocations",
        operation_id="invocations",
        responses={
            200: json_answer(
                "One score for each row, in order.",
                "Predictions",
                one=predictions_example(desk.engine.package),
            ),
            **problems(400, 408, 413, 415, 422, 500, 503),
        },
        openapi_extra={
            "requestBody": json_body(
                "A table with a column `image` of files in base64, in one of MLflow's four forms.",
                _SCHEMA,
                _EXAMPLE,
            ),
            "parameters": [PATIENCE],
        },
        response_class=Response,
    )
    async def invocations(request: Request) -> Response:
        """Score the images of a table's column; if one is refused, all are."""
        check_plain(request, "application/json")
        deadline = desk.deadline(request)
        with desk.engine.figures.stage("receive") as received:
            async with desk.bodies.whole(request, weight=JSON_WEIGHT) as body:
                received()
                most = desk.settings.max_images
                images, wanted = await desk.tree(body, lambda tree: order_of(tree, most))
                scores = await desk.every(request, images, wanted, deadline=deadline)
        with desk.engine.figures.stage("answer"):
            found = (
                Prediction(probability=primary_probability(score), **dict(score))
                for score in scores
            )
            return answered(Predictions(predictions=tuple(found)))

    return router


def order_of(tree: dict[str, Any], most: int) -> tuple[list[bytes], Wanted]:
    """Return the files of a request, at most ``most``, and what it asks for beside their scores.

    Raises
    ------
    Refusal
        ``INVALID_REQUEST``, ``EMPTY_BODY`` or ``TOO_MANY_IMAGES``.
    """
    forms = [form for form in FORMATS if form in tree]
    if len(forms) != 1:
        raise _wrong(f"expected exactly one of {', '.join(FORMATS)}.")
    cells = _cells(forms[0], tree[forms[0]])
    if not cells:
        raise Refusal("EMPTY_BODY", "The table has no row.")
    if len(cells) > most:
        raise too_many(most)
    images = [bytes_of(cell, f"The image of row {row}") for row, cell in enumerate(cells, start=1)]
    return images, _wanted(tree.get("params"))


def _wanted(params: object) -> Wanted:
    if params is None:
        return SCORE_ALONE
    if not isinstance(params, dict) or not set(params) <= set(_Params.model_fields):
        raise _wrong(f"params: expected any of {', '.join(_Params.model_fields)}.")
    try:
        asked = _Params.model_validate(params)
    except ValidationError as error:
        raise _wrong(f"params: {faults_of(error)}") from None
    return wanted_of(asked.evidence, asked.embedding, asked.points)


def _cells(form: str, content: object) -> list[Any]:
    if form == "dataframe_split":
        return _of_columns(content)
    if form == "inputs" and isinstance(content, dict):
        column = _cell(content)
        return column if isinstance(column, list) else [column]
    if not isinstance(content, list):
        raise _wrong(f"{form}: expected a list of rows.")
    return [_cell(row) if isinstance(row, dict) else _only(row) for row in content]


def _of_columns(content: object) -> list[Any]:
    table = content if isinstance(content, dict) else {}
    columns, rows = table.get("columns"), table.get("data")
    if not isinstance(columns, list) or not isinstance(rows, list):
        raise _wrong("dataframe_split: expected `columns` and `data`.")
    if COLUMN not in columns and len(columns) != 1:
        raise _no_column()
    place = columns.index(COLUMN) if COLUMN in columns else 0
    if any(not isinstance(row, list) or len(row) != len(columns) for row in rows):
        raise _wrong("dataframe_split.data: expected rows with a value for each column.")
    return [row[place] for row in rows]


def _cell(row: dict[str, Any]) -> Any:
    if COLUMN in row:
        return row[COLUMN]
    if len(row) != 1:
        raise _no_column()
    return next(iter(row.values()))


def _only(value: Any) -> Any:
    """Return the value of a row that is a list of one, as an array [N, 1] has them."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _no_column() -> Refusal:
    return _wrong(f"the table has several columns, none of them `{COLUMN}`.")


def _wrong(detail: str) -> Refusal:
    return Refusal(
        "INVALID_REQUEST",
        detail[0].upper() + detail[1:],
        f'{{"dataframe_split": {{"columns": ["{COLUMN}"], "data": [["BASE64 OF A FILE"]]}}}}',
    )
