"""The routes of the Open Inference Protocol (KServe V2): the same scores for clients of KServe and Triton."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from data_schemas.document import Part
from data_schemas.version import our_version
from services.inference.about import check_ready
from services.inference.body import JSON_WEIGHT
from services.inference.desk import Desk
from services.inference.kserve_tensors import V2Model, answer_tensors, order_of, v2_model
from services.inference.kserve_words import V2_BODY, v2_answer
from services.inference.openapi import PATIENCE, own_answer, problems
from services.inference.problems import Refusal
from services.inference.tensors import LENGTH_HEADER, split_body, written
from services.inference.trees import check_plain

_TAG = "open inference protocol"


class Live(Part):
    """The process lives."""

    live: bool


class Ready(Part):
    """Images would be scored now."""

    ready: bool


class ModelReady(Ready):
    """The model would score images now."""

    name: str


class ServerMetadata(Part):
    """What answers here."""

    name: str
    version: str
    extensions: tuple[str, ...]


def kserve_routes(desk: Desk) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=[_TAG])
    _add_health(router, desk)
    _add_model(router, desk)
    return router


def _add_health(router: APIRouter, desk: Desk) -> None:
    about = ServerMetadata(name="hilum", version=our_version(), extensions=("binary_tensor_data",))

    @router.get(
        "/v2",
        operation_id="v2_server",
        responses={200: own_answer("What answers here.", about), **problems(500)},
    )
    async def server() -> ServerMetadata:
        """Tell what answers here, and that tensors may come and go in binary."""
        return about

    @router.get(
        "/v2/health/live",
        operation_id="v2_live",
        responses={200: own_answer("It lives.", Live(live=True)), **problems(500)},
    )
    async def live() -> Live:
        """Answer as long as the process lives."""
        return Live(live=True)

    @router.get(
        "/v2/health/ready",
        operation_id="v2_ready",
        responses={200: own_answer("It can score.", Ready(ready=True)), **problems(500, 503)},
    )
    async def ready() -> Ready:
        """Answer 200 once images would be scored."""
        await check_ready(desk.engine)
        return Ready(ready=True)


def _add_model(router: APIRouter, desk: Desk) -> None:
    name_example = [desk.engine.package.card.name]
    Name = Annotated[str, Path(description="the model's name", examples=name_example)]  # noqa: N806
    Version = Annotated[str, Path(description="its version in the registry", examples=["1"])]  # noqa: N806
    one, versioned = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"

    told = {
        200: own_answer("The model.", v2_model(desk.engine.package.card, "")),
        **problems(404, 500),
    }
    ready = {
        200: own_answer("It can score.", ModelReady(name=name_example[0], ready=True)),
        **problems(404, 500, 503),
    }

    @router.get(one, operation_id="v2_model", responses=told)
    async def model(name: Name) -> V2Model:
        """Tell which tensors the model takes and gives."""
        _check_named(desk, name)
        return v2_model(desk.engine.package.card, desk.engine.version)

    @router.get(versioned, operation_id="v2_version", responses=told)
    async def version(name: Name, version: Version) -> V2Model:
        """Tell which tensors this version of the model takes and gives."""
        _check_named(desk, name, version)
        return v2_model(desk.engine.package.card, desk.engine.version)

    @router.get(f"{one}/ready", operation_id="v2_model_ready", responses=ready)
    async def model_ready(name: Name) -> ModelReady:
        """Answer 200 once the model would score images."""
        _check_named(desk, name)
        await check_ready(desk.engine)
        return ModelReady(name=name, ready=True)

    @router.get(f"{versioned}/ready", operation_id="v2_version_ready", responses=ready)
    async def version_ready(name: Name, version: Version) -> ModelReady:
        """Answer 200 once this version of the model would score images."""
        _check_named(desk, name, version)
        await check_ready(desk.engine)
        return ModelReady(name=name, ready=True)

    described: dict[str, Any] = {
        "responses": {
            200: v2_answer(desk.engine.package.card),
            **problems(400, 404, 408, 413, 415, 422, 500, 503),
        },
        "openapi_extra": {"requestBody": V2_BODY, "parameters": [PATIENCE]},
        "response_class": Response,
    }

    @router.post(f"{one}/infer", operation_id="v2_infer", **described)
    async def infer(request: Request, name: Name) -> Response:
        """Score the images of a tensor; if one is refused, all are.

        Input `files` (BYTES [N]) holds files as they are; in JSON, in base64. Input `images` (UINT8)
        holds images that the client has prepared by the model's contract: their quality isn't judged.
        """
        _check_named(desk, name)
        return await _inferred(desk, request)

    @router.post(f"{versioned}/infer", operation_id="v2_version_infer", **described)
    async def version_infer(request: Request, name: Name, version: Version) -> Response:
        """Score the images of a tensor by this version of the model."""
        _check_named(desk, name, version)
        return await _inferred(desk, request)


async def _inferred(desk: Desk, request: Request) -> Response:
    check_plain(request)
    deadline = desk.deadline(request)
    of = desk.loaded()
    with desk.engine.figures.stage("receive") as received:
        async with desk.bodies.whole(request, weight=JSON_WEIGHT) as body:
            received()
            text, binary = split_body(body, request.headers.get(LENGTH_HEADER))
            most = desk.settings.max_images
            card, most = of.package.card, desk.settings.max_images
            order = await desk.tree(text, lambda tree: order_of(tree, binary, card, most))
            scores = await desk.every(request, order.images, order.wanted, deadline=deadline, of=of)
    with desk.engine.figures.stage("answer"):
        head = {"model_name": card.name, "model_version": of.version}
        if order.id:
            head["id"] = order.id
        tensors = answer_tensors(card, scores, tuple(order.outputs))
        content, length = written(head, tensors, tuple(order.outputs.values()))
    headers = {"Cache-Control": "no-store"}
    if length is not None:
        headers["Inference-Header-Content-Length"] = str(length)
    kind = "application/json" if length is None else "application/octet-stream"
    return Response(content, media_type=kind, headers=headers)


def _check_named(desk: Desk, name: str, version: str | None = None) -> None:
    known = (desk.engine.package.card.name, desk.engine.version)
    if name != known[0] or (version is not None and version != known[1]):
        raise Refusal(
            "UNKNOWN_MODEL",
            "The model of this service has another name or version; see /v1/model.",
        )
