"""The routes about the service itself: model, health, figures, pages."""

import asyncio

from fastapi import APIRouter, FastAPI
from starlette.responses import JSONResponse, Response

from services.inference.answers import Health, ModelSummary, summary_of
from services.inference.engine import Engine
from services.inference.examples import FIGURES_EXAMPLE
from services.inference.openapi import own_answer, problems
from services.inference.pages import asset, reference
from services.inference.settings import ServiceSettings


def about_routes(engine: Engine, settings: ServiceSettings) -> APIRouter:
    """Return the routes about model and health."""
    router = APIRouter()

    @router.get(
        "/v1/model",
        tags=["model"],
        operation_id="model",
        responses={
            200: own_answer("The model.", summary_of(engine, settings.max_body_bytes)),
            **problems(500),
        },
    )
    async def model() -> ModelSummary:
        """Tell what the model is for, which files it takes, how it decides and how well it did."""
        return summary_of(engine, settings.max_body_bytes)

    @router.get(
        "/healthz",
        tags=["health"],
        operation_id="health",
        responses={200: own_answer("It lives.", Health(status="ok")), **problems(500)},
    )
    async def healthz() -> Health:
        """Answer as long as the process lives."""
        return Health(status="ok")

    @router.get(
        "/readyz",
        tags=["health"],
        operation_id="ready",
        responses={200: own_answer("It can score.", Health(status="ready")), **problems(500, 503)},
    )
    async def readyz() -> Health:
        """Answer 200 once the package's verification images give the stored outputs again."""
        await check_ready(engine)
        return Health(status="ready")

    @router.get(
        "/metrics",
        tags=["health"],
        operation_id="metrics",
        response_class=Response,
        responses={
            200: {
                "description": "Prometheus's text format.",
                "content": {
                    "text/plain": {"schema": {"type": "string"}, "example": FIGURES_EXAMPLE}
                },
            },
            **problems(500),
        },
    )
    async def metrics() -> Response:
        """Answer the service's figures for Prometheus."""
        return Response(engine.figures.exposition(), media_type=engine.figures.content_type)

    return router


async def check_ready(engine: Engine) -> None:
    """Return if images would be scored now.

    Raises
    ------
    Refusal
        ``NOT_READY`` or ``RECEIPT_NOT_KEPT``.
    """
    if engine.state != "ready":
        raise engine.not_ready()
    if engine.receipts is not None:
        await asyncio.to_thread(engine.receipts.check)


def add_pages(app: FastAPI) -> None:
    """Add the page, its files and the description of the interface."""

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return asset("index.html")

    @app.get("/page.css", include_in_schema=False)
    async def style() -> Response:
        return asset("page.css")

    @app.get("/page.js", include_in_schema=False)
    async def script() -> Response:
        return asset("page.js")

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return reference(app.openapi())
