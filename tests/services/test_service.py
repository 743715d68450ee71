"""The service around the scores: limits, health, figures, pages, description, a quiet end."""

import concurrent.futures
import json
import os
import re
import shutil
import signal
import socket
import time

import fastapi.openapi.models
import numpy as np
import pytest

from data_schemas.dataset import REFUSALS
from data_schemas.files import sha256
from data_schemas.patient import PatientScore
from data_schemas.score import Score
from pipeline.model.package import Verification, pack_verification, verification
from pipeline.model.sums import VERIFICATION
from services.inference.problems import ONLY_INGESTED, Problem, known_codes
from tests.services import drawn_files as drawn
from tests.services.conftest import children_of, log_with, serving, wait_until_ready
from tests.services.test_scores import JPEG, check_alive, check_problem, post

MIB = 2**20


def figure(client, name):
    text = client.get("/metrics").text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_body_over_the_limit_is_refused_before_it_is_read(client):
    problem = check_problem(post(client, bytes(9 * MIB)), 413, "BODY_TOO_LARGE")
    assert "8388608" in problem.detail
    check_alive(client)


def test_a_body_of_unknown_length_is_counted_while_it_arrives(client):
    def blocks():
        for _ in range(40):
            yield bytes(MIB)

    check_problem(post(client, blocks()), 413, "BODY_TOO_LARGE")
    check_alive(client)


def test_the_limit_is_about_the_file_not_the_multipart_frame(client):
    answer = client.post("/v1/scores", files={"file": bytes(8 * MIB)})
    check_problem(answer, 415, "NOT_AN_IMAGE")


@pytest.mark.parametrize("files", [{"file": b""}, {"left": JPEG, "right": b""}])
def test_a_file_of_a_form_may_not_be_empty(client, files):
    check_problem(client.post("/v1/scores", files=files), 400, "EMPTY_BODY")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"no boundary named"),
        ("multipart/form-data; boundary=x", b"not what was announced"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nabc"),
        ("multipart/form-data; boundary=x", b"--x--\r\n"),
        ("multipart/form-data; boundary=" + "x" * 400, b"--x--\r\n"),
    ],
)
def test_a_broken_form_is_refused(client, kind, body):
    check_problem(post(client, body, **{"Content-Type": kind}), 400, "BAD_MULTIPART")


def test_unknown_addresses_and_methods_get_problem_bodies(client):
    check_problem(client.get("/v2/none"), 404, "UNKNOWN_ROUTE")
    check_problem(client.get("/v1/scores/"), 404, "UNKNOWN_ROUTE")
    answer = client.get("/v1/scores")
    check_problem(answer, 405, "WRONG_METHOD")
    assert answer.headers["allow"] == "POST"


def test_health(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_the_model_introduces_itself(client, package):
    summary = client.get("/v1/model").json()
    assert summary["name"] == package.card.name
    assert summary["package_sha256"] == package.sha256
    assert summary["contract"]["region"] == "fundus_field"
    assert summary["intended_use"] == package.card.intended_use
    assert summary["operating_points"][0]["label"] == summary["primary"] == "referable"
    assert summary["runtime"].startswith("onnxruntime ")


def test_figures_count_requests_refusals_and_verdicts(client, package):
    names = [
        'hilum_requests_total{code="200",route="/v1/scores"}',
        'hilum_requests_total{code="415",route="/v1/scores"}',
        'hilum_refusals_total{code="NOT_AN_IMAGE"}',
        'hilum_requests_total{code="404",route="other"}',
        "hilum_queue_seconds_count",
    ]
    before = [figure(client, name) for name in names]
    verdict = post(client, JPEG).json()["verdict"]
    scored = figure(client, f'hilum_scores_total{{verdict="{verdict}",version=""}}')
    post(client, JPEG)
    post(client, b"a letter")
    client.get("/some/patient/12345")
    after = [figure(client, name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1, 1, 1, 3]
    assert figure(client, f'hilum_scores_total{{verdict="{verdict}",version=""}}') == scored + 1
    text = client.get("/metrics").text
    assert package.sha256 in text
    assert "12345" not in text
    assert figure(client, "hilum_ready") == 1
    assert figure(client, "hilum_held_bytes") == 0


def test_the_trace_id_of_the_caller_is_kept_and_no_other_name(client):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = client.get("/healthz", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    assert answer.headers["x-request-id"].replace("-", "") == trace
    answer = client.get("/healthz", headers={"x-request-id": drawn.PATIENT_ID})
    assert drawn.PATIENT_ID not in answer.headers["x-request-id"]


def references(tree):
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from references(value)


def test_the_description_is_complete(client):
    tree = client.get("/openapi.json").json()
    fastapi.openapi.models.OpenAPI.model_validate(tree)
    for reference in references(tree):
        place = tree
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    model, version = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
    assert set(tree["paths"]) == {
        *("/v1/scores", "/v1/scores:batch", "/v1/model", "/healthz", "/readyz", "/metrics"),
        *("/v2", "/v2/health/live", "/v2/health/ready", "/ping", "/invocations"),
        *(f"{place}{rest}" for place in (model, version) for rest in ("", "/ready", "/infer")),
    }
    score = tree["paths"]["/v1/scores"]["post"]
    assert {"application/dicom", "image/jpeg", "multipart/form-data"} <= set(
        score["requestBody"]["content"]
    )
    shown = {
        code
        for answer in score["responses"].values()
        for code in answer["content"].get("application/problem+json", {}).get("examples", {})
    }
    assert set(REFUSALS) - ONLY_INGESTED <= shown
    for path in tree["paths"].values():
        for operation in path.values():
            assert operation["description"]
            assert "HTTPValidationError" not in json.dumps(operation)


def test_every_route_has_examples_of_its_requests_and_answers(client):
    tree = client.get("/openapi.json").json()
    for path in tree["paths"].values():
        for operation in path.values():
            answers = operation["responses"].values()
            for content in (operation.get("requestBody", {}), *answers):
                for media, shown in content.get("content", {}).items():
                    assert "example" in shown or "examples" in shown, (
                        operation["operationId"],
                        media,
                    )


def test_the_examples_of_requests_are_answered(client):
    """This model, which is for fundus photographs, wasn't made for a grey square."""
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for operation in methods.values():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" in content:
                address = path.format(name="small-fundus", version="1")
                answer = client.post(address, json=content["application/json"]["example"])
                if "versions" in path:
                    assert answer.json()["code"] == "UNKNOWN_MODEL", answer.text
                else:
                    assert answer.status_code == 200, answer.text
                    assert "out_of_scope" in answer.text


def test_the_examples_fit_their_documents(client):
    responses = client.get("/openapi.json").json()["paths"]["/v1/scores"]["post"]["responses"]
    examples = responses["200"]["content"]["application/json"]["examples"]
    Score.from_tree(examples["one"]["value"], where="example")
    PatientScore.from_tree(examples["several"]["value"], where="example")
    for status, answer in responses.items():
        examples = answer["content"].get("application/problem+json", {}).get("examples", {})
        for code, example in examples.items():
            problem = Problem.model_validate(example["value"])
            assert (problem.code, str(problem.status)) == (code, status)


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/docs"])
def test_pages_need_no_other_address(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    # the namespace of SVG is a name, not an address that anything loads
    text = answer.text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z0-9-]+\.[a-z]", text)


def test_the_reference_explains_every_problem_where_its_type_points(client):
    text = client.get("/docs").text
    for code in known_codes():
        assert f"id='{code}'" in text
    assert "/v1/scores" in text


def test_it_says_where_it_is_and_the_log_is_json(served, client):
    assert served.url.startswith("http://127.0.0.1:")
    assert served.name == "small-fundus"
    name = client.get("/healthz").headers["x-request-id"]
    lines = [json.loads(line) for line in log_with(served, name).splitlines()]
    ready = next(line for line in lines if line["event"] == "ready")
    assert ready["largest_difference"] <= 1e-4
    request = next(line for line in lines if line["event"] == "request")
    assert {"time", "request_id", "route", "status", "seconds"} <= set(request)


def test_sigterm_lets_requests_under_way_end(package, tmp_path):
    big = drawn.encoded(drawn.fundus(side=1000), "PNG")
    with serving(package.folder, tmp_path / "log", "--threads", "1") as running:
        wait_until_ready(running)

        def send(_):
            with running.client() as client:
                return post(client, big, "?evidence=true").status_code

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(send, number) for number in range(4)]
            with running.client() as client:
                # a connection that the service has not taken yet may be refused: wait for all
                held, end = 0.0, time.monotonic() + 120
                while held + sum(answer.done() for answer in answers) < 4:
                    held = round(figure(client, "hilum_held_bytes") / len(big))
                    assert time.monotonic() < end
            assert not all(answer.done() for answer in answers)
            running.process.send_signal(signal.SIGTERM)
            assert [answer.result() for answer in answers] == [200] * 4
        assert running.process.wait(timeout=20) == 0
    assert '"event": "stopped"' in running.log.read_text()
    port = int(running.url.rpartition(":")[2])
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=2)


def test_an_interrupt_of_all_its_processes_is_a_quiet_end(package, tmp_path):
    with serving(package.folder, tmp_path / "log") as running:
        wait_until_ready(running)
        for pid in (*children_of(running.process.pid), running.process.pid):
            os.kill(pid, signal.SIGINT)
        assert running.process.wait(timeout=40) == 0
    log = running.log.read_text()
    assert '"event": "stopped"' in log
    assert '"event": "fault"' not in log


def test_a_slow_body_is_given_up(package, tmp_path):
    with serving(package.folder, tmp_path / "log", HILUM_BODY_SECONDS="0.3") as running:
        wait_until_ready(running)
        port = int(running.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(
                b"POST /v1/scores HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc"
            )
            answer = b""
            while b"BODY_INCOMPLETE" not in answer:
                more = connection.recv(4096)
                assert more, answer
                answer += more
        assert answer.startswith(b"HTTP/1.1 408 ")


def with_altered_verification(package, folder):
    shutil.copytree(package.folder, folder)
    found = verification(package)
    altered = Verification(found.images, found.logits + np.float32(0.01), found.bias)
    (folder / VERIFICATION).write_bytes(pack_verification(altered))
    sums = (folder / "SHA256SUMS").read_text()
    new = sha256((folder / VERIFICATION).read_bytes())
    (folder / "SHA256SUMS").write_text(sums.replace(package.digests[VERIFICATION], new))
    return folder


def test_a_model_that_answers_otherwise_than_at_export_is_never_ready(package, tmp_path):
    folder = with_altered_verification(package, tmp_path / "package")
    with serving(folder, tmp_path / "log") as running, running.client() as client:
        answer = client.get("/readyz")
        for _ in range(400):
            if "verification" in answer.text:
                break
            time.sleep(0.05)
            answer = client.get("/readyz")
        problem = check_problem(answer, 503, "NOT_READY")
        assert "0.01" in problem.detail
        check_problem(post(client, JPEG), 503, "NOT_READY")
        assert client.get("/healthz").status_code == 200
        assert client.get("/v1/model").status_code == 200
        assert figure(client, "hilum_ready") == 0
