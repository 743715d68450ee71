"""OpenTelemetry traces by setting: one span a request, one below it for each stage; nothing about a patient.

Off unless an address is set: without one nothing that could send is imported. Whatever else it knows (headers,
sampler, names of the resource) it takes from its own variables, ``OTEL_*``.
"""

import time
from contextvars import ContextVar
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from starlette.types import Scope

from data_schemas.errors import UsageError
from data_schemas.version import our_version
from services.inference.settings import ServiceSettings

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

KEPT_HEADERS = (b"traceparent", b"tracestate")
FACTS = ("code", "verdict", "version", "bytes")
"""What of a request's log line becomes an attribute."""

_CURRENT: ContextVar["Trace | None"] = ContextVar("trace", default=None)


class Trace:
    """The spans of one request."""

    def __init__(self, tracer: "Tracer", span: "Span", method: str) -> None:
        from opentelemetry import trace

        self._tracer = tracer
        self._span = span
        self._method = method
        self._below = trace.set_span_in_context(span)
        # stages are timed on another clock than spans
        self._offset_s = time.time() - time.perf_counter()
        self._token = _CURRENT.set(self)

    def stage(self, name: str, began: float, seconds: float) -> None:
        """Add the span of a stage that has ended. From any thread."""
        start = round((began + self._offset_s) * 1e9)
        span = self._tracer.start_span(name, self._below, start_time=start)
        span.end(start + round(seconds * 1e9))

    def end(self, route: str, status: int, facts: dict[str, Any]) -> None:
        """End the request's span."""
        from opentelemetry.trace import StatusCode

        self._span.update_name(f"{self._method} {route}")
        self._span.set_attribute("http.request.method", self._method)
        self._span.set_attribute("http.route", route)
        self._span.set_attribute("http.response.status_code", status)
        for name in FACTS:
            if name in facts:
                self._span.set_attribute(f"hilum.{name}", facts[name])
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
        _CURRENT.reset(self._token)


class Traces:
    """What makes and sends the spans of one worker.

    Parameters
    ----------
    address
        Of a receiver of OTLP over HTTP, such as ``http://collector:4318/v1/traces``.
    """

    def __init__(self, address: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        class Ids(RandomIdGenerator):
            trace_id = 0

            def generate_trace_id(self) -> int:
                return self.trace_id or super().generate_trace_id()

        self._ids = Ids()
        named = Resource({SERVICE_NAME: "hilum", SERVICE_VERSION: our_version()})
        # what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say goes before our own names
        resource = named.merge(Resource.create())
        self._provider: TracerProvider = TracerProvider(
            resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=address)))
        self._tracer = self._provider.get_tracer("hilum", our_version())
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, scope: Scope, request_id: str) -> Trace:
        """Begin the span of a request, below the caller's if it names one (W3C Trace Context)."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in KEPT_HEADERS
        }
        # a trace of our own has the request's id, which stands in the log and in the answer
        self._ids.trace_id = int(request_id.replace("-", ""), 16)
        parent = self._propagator.extract(carrier, context=Context())
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        span = self._tracer.start_span(method, parent, kind=SpanKind.SERVER)
        return Trace(self._tracer, span, method)

    def close(self) -> None:
        """Send what waits; for a few seconds at most."""
        self._provider.force_flush(3000)
        self._provider.shutdown()


_METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")


def stage_span(name: str, began: float, seconds: float) -> None:
    """Add the span of a stage of the current request, if it is traced.

    ``began`` is on the clock of ``time.perf_counter``.
    """
    trace = _CURRENT.get()
    if trace is not None:
        trace.stage(name, began, seconds)


def check_traces(settings: ServiceSettings) -> None:
    """Check that traces can be sent, before anything is served.

    Raises
    ------
    UsageError
        If the address isn't one of HTTP, or OpenTelemetry isn't installed.
    """
    if not settings.traces:
        return
    if not settings.traces.startswith(("http://", "https://")):
        raise UsageError(
            "expected an address that begins with http:// or https://",
            where="HILUM_TRACES",
            mend="such as http://collector:4318/v1/traces",
        )
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.exporter") is None:
        raise UsageError(
            "traces need OpenTelemetry, which isn't installed",
            where="HILUM_TRACES",
            mend="pip install 'hilum[otel]'",
        )


def open_traces(settings: ServiceSettings) -> Traces | None:
    """Return what sends the traces of this worker; ``None`` if no address is set."""
    return Traces(settings.traces) if settings.traces else None
