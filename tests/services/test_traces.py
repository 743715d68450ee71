"""Traces, received by a real HTTP server that reads OTLP's own messages; none unless asked for."""

import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from data_schemas.errors import UsageError
from services.inference.settings import ServiceSettings
from services.inference.traces import check_traces
from tests.services import drawn_files as drawn
from tests.services.conftest import ROOT, serving, wait_until_ready
from tests.services.test_scores import JPEG, post

STAGES = {"receive", "decode", "prepare", "run", "receipt", "answer"}
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Receiver:
    """An OTLP/HTTP receiver; `spans` is what came, `resource` whose they are."""

    def __init__(self):
        self.spans, self.resource, self.bodies = [], {}, []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/x-protobuf"
                receiver.take(self.path, body)
                reply = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/v1/traces"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, path, body):
        assert path == "/v1/traces"
        message = ExportTraceServiceRequest.FromString(body)
        self.bodies.append(body)
        for of_resource in message.resource_spans:
            self.resource |= {
                pair.key: pair.value.string_value for pair in of_resource.resource.attributes
            }
            for of_scope in of_resource.scope_spans:
                self.spans += of_scope.spans

    def trace(self, trace_id, count, seconds=30):
        """Return the spans of a trace once `count` of them are there."""
        end = time.monotonic() + seconds
        while True:
            found = [span for span in list(self.spans) if span.trace_id.hex() == trace_id]
            if len(found) >= count:
                return found
            assert time.monotonic() < end, [span.name for span in self.spans]
            time.sleep(0.05)


def attributes(span):
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}


@pytest.fixture(scope="module")
def receiver():
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def traced(package, receiver, tmp_path_factory):
    folder = tmp_path_factory.mktemp("traced")
    settings = {"HILUM_TRACES": receiver.address, "HILUM_RECEIPTS": str(folder / "receipts")}
    quick = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_SERVICE_NAME": "eyes-of-the-hospital"}
    with serving(package.folder, folder / "log", **settings, **quick) as running:
        wait_until_ready(running)
        yield running


def test_a_request_is_one_span_with_its_stages_below_the_callers(traced, receiver):
    with traced.client() as client:
        answer = post(client, JPEG, traceparent=CALLER)
    assert answer.status_code == 200
    trace_id = CALLER.split("-")[1]
    spans = receiver.trace(trace_id, len(STAGES) + 1)
    (root,) = [span for span in spans if span.name == "POST /v1/scores"]
    assert root.parent_span_id.hex() == CALLER.split("-")[2]
    assert {span.name for span in spans} - {root.name} == STAGES
    assert all(span.parent_span_id == root.span_id for span in spans if span is not root)
    begins = {span.name: span.start_time_unix_nano for span in spans}
    assert begins["receive"] < begins["decode"] < begins["prepare"] < begins["run"]
    slack = 5_000_000  # two clocks
    for span in spans:
        assert span.start_time_unix_nano >= root.start_time_unix_nano - slack
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano + slack
    found = attributes(root)
    assert found["http.route"] == "/v1/scores"
    assert found["http.response.status_code"] == 200
    assert found["hilum.verdict"] == answer.json()["verdict"]
    assert receiver.resource["service.name"] == "eyes-of-the-hospital"


def test_without_a_caller_the_trace_has_the_requests_id(traced, receiver):
    with traced.client() as client:
        answer = post(client, b"no image")
    trace_id = uuid.UUID(answer.headers["x-request-id"]).hex
    (root,) = [span for span in receiver.trace(trace_id, 2) if span.name == "POST /v1/scores"]
    assert root.parent_span_id == b""
    assert attributes(root)["hilum.code"] == "NOT_AN_IMAGE"


def test_nothing_of_a_patient_is_sent(traced, receiver):
    secret = drawn.PATIENT_ID
    with traced.client() as client:
        answer = client.post(
            f"/v1/scores?patient={secret}",
            content=drawn.dicom(drawn.fundus()),
            headers={"User-Agent": secret, "X-Patient": secret, "tracestate": "hospital=1"},
        )
        gone = client.get(f"/patients/{secret}")
    for one in (answer, gone):
        receiver.trace(uuid.UUID(one.headers["x-request-id"]).hex, 1)
    sent = b"".join(receiver.bodies)
    assert secret.encode() not in sent
    assert drawn.PATIENT.encode() not in sent
    assert b"127.0.0.1" not in sent
    allowed = {"http.request.method", "http.route", "http.response.status_code"}
    for span in receiver.spans:
        assert {pair.key for pair in span.attributes} <= allowed | {
            f"hilum.{name}" for name in ("code", "verdict", "version", "bytes")
        }


def test_no_variable_of_the_environment_makes_the_libraries_send(package, receiver, tmp_path):
    asked = {
        "FASTAPI_OTEL_AUTO_CONFIGURE": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.address.removesuffix("/v1/traces"),
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    before = len(receiver.bodies)
    with serving(package.folder, tmp_path / "log", **asked) as running:
        wait_until_ready(running)
        with running.client() as client:
            assert post(client, JPEG).status_code == 200
        assert running.stop() == 0  # what waited would have been sent at the end
    assert len(receiver.bodies) == before


def test_a_receiver_that_is_away_changes_nothing(package, tmp_path):
    with serving(
        package.folder, tmp_path / "log", HILUM_TRACES="http://127.0.0.1:9/v1/traces"
    ) as running:
        wait_until_ready(running)
        with running.client() as client:
            assert {post(client, JPEG).status_code for _ in range(3)} == {200}
        assert running.stop() == 0


def test_off_means_that_nothing_that_could_send_is_loaded():
    script = (
        "import sys\n"
        "import services.inference.app, services.inference.traces as traces\n"
        "from services.inference.settings import ServiceSettings\n"
        "assert traces.open_traces(ServiceSettings()) is None\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])\n"
    )
    words = [sys.executable, "-c", script]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_a_wrong_address_is_told_before_anything_is_served():
    with pytest.raises(UsageError, match="http://"):
        check_traces(ServiceSettings(traces="collector:4318"))
    check_traces(ServiceSettings())
