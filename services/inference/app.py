"""The HTTP application: routes, gate and door put together, and every error a problem body."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from data_schemas.errors import HilumError
from data_schemas.version import our_version
from pipeline.model.package import Package
from services.inference.about import about_routes, add_pages
from services.inference.access import Gate
from services.inference.body import Bodies
from services.inference.desk import Desk
from services.inference.door import Door
from services.inference.engine import Engine
from services.inference.figures import Figures
from services.inference.invocations import invocation_routes
from services.inference.journal import Journal
from services.inference.kserve import kserve_routes
from services.inference.openapi import DESCRIPTION, describe
from services.inference.problems import Refusal, answer, refusal_of
from services.inference.scores import score_routes
from services.inference.settings import ServiceSettings
from services.inference.traces import open_traces


def create_app(
    package: Package,
    settings: ServiceSettings,
    *,
    version: str = "",
    journal: Journal | None = None,
    engine: Engine | None = None,
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
    engine
        Of a worker: may be loading already; ``None``: one that decodes in its own threads.
    """
    journal = journal or Journal()
    traces = open_traces(settings)
    if engine is None:
        figures = Figures(settings.figures_folder)
        engine = Engine(package, settings, version, figures, journal)
    figures = engine.figures

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
    desk = Desk(engine, settings, Bodies(settings, figures), journal)
    app.include_router(score_routes(desk))
    app.include_router(about_routes(engine, settings))
    app.include_router(kserve_routes(desk))
    app.include_router(invocation_routes(desk))
    add_pages(app)
    describe(app)
    return app


def _refuse_in_problem_bodies(app: FastAPI, journal: Journal) -> None:
    def refuse(request: Request, error: Exception) -> Response:
        refusal = refusal_of(error)
        request.state.facts["code"] = refusal.code
        if refusal.code == "FAULT":
            journal.fault(error, request_id=request.state.request_id)
        return answer(refusal, request.scope)

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
