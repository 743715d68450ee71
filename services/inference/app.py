"""The HTTP application: its routes, each as short as what it promises."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from data_schemas.errors import HilumError
from data_schemas.version import our_version
from pipeline.model.package import Package
from services.inference.access import Gate
from services.inference.answers import Health, ModelSummary, summary_of
from services.inference.body import Bodies
from services.inference.door import Door
from services.inference.engine import Around, Engine
from services.inference.figures import Figures
from services.inference.journal import Journal
from services.inference.openapi import DESCRIPTION, SCORE_BODY, describe, problems, score_example
from services.inference.pages import asset, reference
from services.inference.patience import attended, deadline_of
from services.inference.problems import Refusal, answer, refusal_of
from services.inference.settings import ServiceSettings
from services.inference.traces import open_traces


def create_app(
    package: Package,
    settings: ServiceSettings,
    *,
    version: str = "",
    journal: Journal | None = None,
    around: Around | None = None,
) -> FastAPI:
    """Return the service of one model package.

    Parameters
    ----------
    package
        An opened (and so verified) package.
    settings
        Limits and threads; the model and the address in it are the door's business.
    version
        The package's version in the registry, for scores and figures.
    journal
        Where the log goes; ``None``: stderr.
    around
        What a worker of several processes has around its engine.
    """
    figures = Figures(settings.figures_folder)
    journal = journal or Journal()
    traces = open_traces(settings)
    engine = Engine(package, settings, version, figures, journal, around or Around())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await engine.stop()
        if traces is not None:
            await asyncio.to_thread(traces.close)
        journal.write("stopped")

    app = FastAPI(
        title="hilum",
        summary=f"Scores medical images with the model {package.card.name}.",
        description=DESCRIPTION,
        version=our_version(),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        # FastAPI's own would tell addresses, messages of errors and what was wrong in a request to
        # whoever a variable of the environment names; traces.py sends ours
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.add_middleware(Gate, settings=settings, journal=journal)
    app.add_middleware(Door, figures=figures, journal=journal, traces=traces)
    _refuse_in_problem_bodies(app, journal)
    _add_scores(app, engine, settings, Bodies(settings, figures))
    _add_model(app, engine, settings, figures)
    _add_pages(app)
    describe(app)
    return app


def _add_scores(app: FastAPI, engine: Engine, settings: ServiceSettings, bodies: Bodies) -> None:
    @app.post(
        "/v1/scores",
        tags=["scores"],
        summary="Score one image",
        operation_id="score",
        responses={
            200: {
                "description": "The score.",
                "content": {
                    "application/json": {
                        "schema": {"$ref": "#/components/schemas/Score"},
                        "example": score_example(engine.package),
                    }
                },
            },
            **problems(400, 408, 413, 415, 422, 500, 503),
        },
        openapi_extra={"requestBody": SCORE_BODY},
        response_class=Response,
    )
    async def score(
        request: Request,
        evidence: Annotated[
            bool, Query(description="also answer the evidence maps, with a picture of each")
        ] = False,
    ) -> Response:
        """Score the file in the body: DICOM, JPEG, PNG or TIFF, recognised by its first bytes.

        The file is decoded, prepared and scored exactly as the model's training images were; it
        is neither stored nor logged.
        """
        deadline = deadline_of(request, settings.answer_seconds)
        with engine.figures.stage("receive") as received:
            async with bodies.image(request) as data:
                received()
                request.state.facts["bytes"] = len(data)
                work = engine.score(data, evidence=evidence, deadline=deadline)
                result = await attended(request, work, deadline)
        request.state.facts.update(verdict=result.verdict, version=result.model.version)
        with engine.figures.stage("answer"):
            text = result.model_dump_json()
        return Response(
            text,
            media_type="application/json",
            headers={"Cache-Control": "no-store"},
        )


def _add_model(app: FastAPI, engine: Engine, settings: ServiceSettings, figures: Figures) -> None:
    @app.get(
        "/v1/model",
        tags=["model"],
        operation_id="model",
        response_description="The model.",
        responses=problems(500),
    )
    async def model() -> ModelSummary:
        """Tell what the model is for, which files it takes, how it decides and how well it did."""
        return summary_of(engine, settings.max_body_bytes)

    @app.get(
        "/healthz",
        tags=["health"],
        operation_id="health",
        response_description="It lives.",
        responses=problems(500),
    )
    async def healthz() -> Health:
        """Answer as long as the process lives."""
        return Health(status="ok")

    @app.get(
        "/readyz",
        tags=["health"],
        operation_id="ready",
        response_description="It can score.",
        responses=problems(500, 503),
    )
    async def readyz() -> Health:
        """Answer 200 once the package's verification images give the stored outputs again."""
        if engine.state != "ready":
            raise engine.not_ready()
        if engine.receipts is not None:
            await asyncio.to_thread(engine.receipts.check)
        return Health(status="ready")

    @app.get(
        "/metrics",
        tags=["health"],
        operation_id="metrics",
        response_class=Response,
        responses={
            200: {
                "description": "Prometheus's text format.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **problems(500),
        },
    )
    async def metrics() -> Response:
        """Answer the service's figures for Prometheus."""
        return Response(figures.exposition(), media_type=figures.content_type)


def _add_pages(app: FastAPI) -> None:
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


def _refuse_in_problem_bodies(app: FastAPI, journal: Journal) -> None:
    def refuse(request: Request, error: Exception) -> Response:
        refusal = refusal_of(error)
        request.state.facts["code"] = refusal.code
        if refusal.code == "FAULT":
            journal.fault(error, request_id=request.state.request_id)
        return answer(refusal, request.state.request_id)

    async def own(request: Request, error: Exception) -> Response:
        return refuse(request, error)

    async def routing(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        if status == 404:
            return refuse(request, Refusal("UNKNOWN_ROUTE", "See /docs for what there is."))
        if status == 405 and isinstance(error, HTTPException):
            allow = (error.headers or {}).get("Allow", "")
            return refuse(request, Refusal("WRONG_METHOD", f"Allowed here: {allow}.", allow=allow))
        return refuse(request, error)

    async def validation(request: Request, error: Exception) -> Response:
        # the value itself is not repeated: it came from a client and might be anything
        faults = error.errors() if isinstance(error, RequestValidationError) else []
        what = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
        return refuse(request, Refusal("INVALID_REQUEST", what or "The request is not valid."))

    app.add_exception_handler(Refusal, own)
    app.add_exception_handler(HilumError, own)
    app.add_exception_handler(HTTPException, routing)
    app.add_exception_handler(RequestValidationError, validation)
