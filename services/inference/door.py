"""The ring around every request: an id, a place in the log and the figures, and no answer without a problem body."""

import re
import time
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.inference.figures import Figures
from services.inference.journal import Journal
from services.inference.problems import answer, refusal_of
from services.inference.traces import Traces

_POLICY = (
    b"default-src 'none'",
    b"script-src 'self'",
    b"style-src 'self'",
    b"connect-src 'self'",
    b"img-src 'self' blob: data:",
    b"base-uri 'none'",
    b"form-action 'none'",
    b"frame-ancestors 'none'",
)
SECURITY_HEADERS: list[tuple[bytes, bytes]] = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (
        b"content-security-policy",
        b"; ".join(_POLICY),
    ),
]
STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
"""Only over TLS (RFC 6797, 7.2): from then on a browser never asks without it."""
_TRACE = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$")


class Door:
    """ASGI middleware: request id, log line, figures, security headers, last resort for faults."""

    def __init__(
        self, app: ASGIApp, *, figures: Figures, journal: Journal, traces: Traces | None = None
    ) -> None:
        self._app = app
        self._traces = traces
        self._figures = figures
        self._journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request through and write down how it ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = request_id_of(scope)
        facts: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=request_id, facts=facts)
        trace = None if self._traces is None else self._traces.begin(scope, request_id)
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                    *SECURITY_HEADERS,
                    *((STRICT_TRANSPORT,) if scope["scheme"] == "https" else ()),
                ]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:  # noqa: BLE001 - the last resort: a client gets a problem body
            self._journal.fault(error, request_id=request_id)
            facts.setdefault("code", "FAULT")
            if status == 0:
                await answer(refusal_of(error), scope)(scope, receive, sending)
        finally:
            self._note(scope, status, facts, time.perf_counter() - began)
            if trace is not None:
                trace.end(route_of(scope), status, facts)

    def _note(self, scope: Scope, status: int, facts: dict[str, Any], seconds: float) -> None:
        route = route_of(scope)
        self._figures.requests.labels(route, str(status)).inc()
        self._figures.request_seconds.labels(route).observe(seconds)
        if "code" in facts:
            self._figures.refusals.labels(facts["code"]).inc()
        if "verdict" in facts:
            self._figures.scores.labels(facts["verdict"], facts.get("version", "")).inc()
        # of a request with several images
        for verdict, count in facts.get("verdicts", {}).items():
            self._figures.scores.labels(verdict, facts.get("version", "")).inc(count)
        for code, count in facts.get("codes", {}).items():
            self._figures.refusals.labels(code).inc(count)
        self._journal.write(
            "request",
            request_id=scope["state"]["request_id"],
            method=scope["method"],
            route=route,
            status=status,
            seconds=round(seconds, 4),
            **facts,
        )


def request_id_of(scope: Scope) -> str:
    """Return the trace id of a ``traceparent`` header (W3C Trace Context) or a fresh random one.

    A free-form id of the client is not taken: it could be an accession number.
    """
    for name, value in scope["headers"]:
        if name == b"traceparent":
            match = _TRACE.match(value.decode("latin-1"))
            if match and int(match[1], 16):
                return str(uuid.UUID(match[1]))
    return str(uuid.uuid4())


def route_of(scope: Scope) -> str:
    """Return the route's own address (the router notes it), never what the client wrote."""
    return str(getattr(scope.get("route"), "path", "other"))
