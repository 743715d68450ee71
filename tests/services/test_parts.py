"""The service's parts on their own: the bounded pool, bodies held in memory, forms, problems, the log."""

import asyncio
import gc
import io
import json
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_schemas.dataset import REFUSALS
from data_schemas.errors import BusyError, DatasetError, HilumError, ImageError, UsageError
from services.inference.app import create_app
from services.inference.body import File, Parts
from services.inference.desk import _together
from services.inference.figures import Figures
from services.inference.journal import Journal
from services.inference.pool import Pool
from services.inference.problems import (
    SERVICE_CODES,
    Refusal,
    problem_of,
    refusal_of,
    status_of,
)
from services.inference.settings import ServiceSettings
from services.inference.shadow import open_shadow

ROOT = Path(__file__).parents[2]


def test_the_pool_refuses_beyond_its_queue_and_recovers():
    async def scene():
        pool = Pool(2, 3, Figures())
        gate = threading.Event()
        waiting = [asyncio.ensure_future(pool.run(gate.wait)) for _ in range(5)]
        await asyncio.sleep(0.05)
        with pytest.raises(BusyError) as raised:
            await pool.run(lambda: None)
        assert raised.value.retry_after_s >= 1
        gate.set()
        await asyncio.gather(*waiting)
        await asyncio.sleep(0)
        assert await pool.run(lambda: "again") == "again"
        pool.close()

    asyncio.run(scene())


def test_the_pool_keeps_the_loop_free_and_passes_exceptions_on():
    async def scene():
        pool = Pool(1, 4, Figures())
        gate = threading.Event()
        blocked = asyncio.ensure_future(pool.run(gate.wait))
        await asyncio.sleep(0.02)  # the loop runs although the only thread is blocked
        gate.set()
        assert await blocked

        def fail():
            raise ImageError("CORRUPT", "no")

        for _ in range(10):
            with pytest.raises(ImageError):
                await pool.run(fail)
        pool.close()

    asyncio.run(scene())


def test_a_client_that_leaves_gives_its_place_in_the_queue_back():
    async def scene():
        pool = Pool(1, 1, Figures())
        gate = threading.Event()
        first = asyncio.ensure_future(pool.run(gate.wait))
        second = asyncio.ensure_future(pool.run(gate.wait))
        await asyncio.sleep(0.02)
        second.cancel()
        await asyncio.sleep(0.02)
        third = asyncio.ensure_future(pool.run(lambda: 3))
        await asyncio.sleep(0.02)
        gate.set()
        assert await third == 3
        assert await first
        pool.close()

    asyncio.run(scene())


class Large:
    """Stands for an image: whether it is still held can be asked."""


@contextmanager
def nothing_collected():
    """Let go of things as in the moment of a burst: the collector comes much later."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def is_let_go(held, seconds=20):
    """Tell whether nobody holds it any more; the thread that worked for it may be a step behind."""
    end = time.monotonic() + seconds
    while held() is not None and time.monotonic() < end:
        await asyncio.sleep(0.01)
    return held() is None


def work_on(image, do):
    """Return work that holds an image, and how to see that it is held."""
    return (lambda: (do(), image)), weakref.ref(image)


def fail():
    raise ImageError("CORRUPT", "no")


def test_an_image_whose_client_left_is_let_go_before_its_turn():
    async def scene():
        pool = Pool(1, 1, Figures())
        gate = threading.Event()
        first = asyncio.ensure_future(pool.run(gate.wait))
        work, held = work_on(Large(), gate.wait)
        second = asyncio.ensure_future(pool.run(work))
        del work
        await asyncio.sleep(0.02)
        second.cancel()
        with suppress(asyncio.CancelledError):
            await second
        del second
        assert await is_let_go(held)
        gate.set()
        assert await first
        pool.close()

    with nothing_collected():
        asyncio.run(scene())


def test_a_refused_image_is_let_go_at_once():
    async def refused(pool):
        work, held = work_on(Large(), fail)
        with suppress(ImageError):
            await pool.run(work)
        return held

    async def scene():
        pool = Pool(1, 4, Figures())
        assert await is_let_go(await refused(pool))
        pool.close()

    with nothing_collected():
        asyncio.run(scene())


def test_images_that_are_refused_together_are_let_go_at_once():
    async def refused():
        image = Large()

        async def work(image=image):
            await asyncio.sleep(0)
            fail()

        with suppress(ImageError):
            await _together(work, 3)
        return weakref.ref(image)

    async def scene():
        assert await is_let_go(await refused())

    with nothing_collected():
        asyncio.run(scene())


def files_of_form(body, boundary, cut=7):
    """Return the files of a form that arrives ``cut`` bytes at a time."""
    parts = Parts(boundary, ServiceSettings())
    for start in range(0, len(body), cut):
        parts.write(body[start : start + cut])
    return parts.files(empty=not body)


def form_of(files):
    part = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n%b\r\n'
    return b"".join(part % data for data in files) + b"--x--\r\n"


@given(st.binary(min_size=1, max_size=300), st.integers(1, 400))
def test_a_form_gives_back_the_files_own_bytes(data, cut):
    boundary = "b" * 30
    if f"--{boundary}".encode() in data:
        return
    head = b'Content-Disposition: form-data; name="file"; filename="x"\r\n'
    frame = (
        f"--{boundary}\r\n".encode() + head + b"\r\n" + data + f"\r\n--{boundary}--\r\n".encode()
    )
    assert files_of_form(frame, boundary, cut) == [File(data, "file")]
    with pytest.raises(Refusal):
        files_of_form(frame[: -len(boundary) - 4], boundary, cut)


@given(st.binary(max_size=200), st.text(max_size=90))
def test_no_form_escapes_as_another_error(body, boundary):
    try:
        assert files_of_form(body, boundary)
    except Refusal as refusal:
        code = refusal.code
        assert code in ("BAD_MULTIPART", "EMPTY_BODY")


def test_every_code_has_one_status_and_a_problem_body():
    assert not set(SERVICE_CODES) & set(REFUSALS)
    for code in (*SERVICE_CODES, *REFUSALS):
        problem = problem_of(Refusal(code, "detail"), "id")
        assert 400 <= problem.status < 600
        assert problem.title
    assert status_of("NOT_AN_IMAGE") == status_of("WRONG_FORMAT") == 415
    assert status_of("TOO_LARGE") == 413
    assert {status_of(code) for code in REFUSALS} == {413, 415, 422}


def test_the_services_own_faults_say_nothing_of_its_inside():
    for error in (
        ValueError("secret"),
        DatasetError("secret", where="/a/path"),
        HilumError("secret"),
    ):
        refusal = refusal_of(error)
        assert (refusal.code, status_of(refusal.code)) == ("FAULT", 500)
        assert "secret" not in refusal.detail + str(refusal.hint)
    refusal = refusal_of(ImageError("CORRUPT", "the\n scan ends", where="(7FE0,0010)", mend="mend"))
    assert refusal.detail == "the scan ends ((7FE0,0010))"
    assert refusal.hint == "mend"
    assert status_of(refusal_of(UsageError("wrong")).code) == 422


def test_the_log_keeps_a_faults_place_and_not_its_message():
    stream = io.StringIO()

    def fail():
        raise ValueError("Muster^Erika")

    try:
        fail()
    except ValueError as error:
        Journal(stream).fault(error, request_id="1")
    line = json.loads(stream.getvalue())
    assert line["error"] == "ValueError"
    assert line["places"][-1].startswith("tests/services/test_parts.py:")
    assert "Muster" not in stream.getvalue()


def test_the_log_keeps_the_words_of_libraries_out():
    # in a process of its own: it changes the logging of the whole process
    script = (
        "import logging, warnings\n"
        "from services.inference.journal import Journal, adopt_logs\n"
        "logging.getLogger('pydicom').addHandler(logging.StreamHandler())\n"
        "adopt_logs(Journal())\n"
        "logging.getLogger('pydicom').warning('patient Muster^Erika')\n"
        "warnings.warn('patient Muster^Erika')\n"
        "logging.getLogger('uvicorn.error').error('Invalid HTTP request: %s', 'Muster^Erika')\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in told.stderr.splitlines()]
    assert [line["source"] for line in lines] == ["pydicom", "py.warnings", "uvicorn.error"]
    assert "Muster" not in told.stderr + told.stdout


def asgi(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


def test_before_the_model_is_loaded_it_lives_but_is_not_ready(package):
    async def scene():
        app = create_app(package, ServiceSettings(), journal=Journal(io.StringIO()))
        async with asgi(app) as client:
            assert (await client.get("/healthz")).status_code == 200
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["code"]) == (503, "NOT_READY")
            assert ready.headers["retry-after"] == "1"
            scored = await client.post("/v1/scores", content=b"x")
            assert (scored.status_code, scored.json()["code"]) == (503, "NOT_READY")

    asyncio.run(scene())


def test_bodies_together_are_bounded_too(package):
    async def slow(blocks, gate):
        for block in blocks:
            yield block
            await gate.wait()

    async def scene():
        settings = ServiceSettings(max_body_mb=1, max_held_mb=1)
        app = create_app(package, settings, journal=Journal(io.StringIO()))
        gate = asyncio.Event()
        async with asgi(app) as client:
            big = [bytes(700_000), b"x"]
            first = asyncio.ensure_future(client.post("/v1/scores", content=slow(big, gate)))
            await asyncio.sleep(0.05)
            refused = await client.post("/v1/scores", content=bytes(700_000))
            assert (refused.status_code, refused.json()["code"]) == (503, "BUSY")
            assert "retry-after" in refused.headers
            small = await client.post("/v1/scores", content=bytes(1000))
            assert small.json()["code"] == "NOT_READY"
            gate.set()
            await first
            again = await client.post("/v1/scores", content=bytes(700_000))
            assert again.json()["code"] == "NOT_READY"

    asyncio.run(scene())


def test_a_report_that_cannot_be_written_costs_the_shadow_and_not_the_champion(package, tmp_path):
    (tmp_path / "file").write_text("")
    log, report = io.StringIO(), str(tmp_path / "file" / "pairs")
    settings = ServiceSettings(shadow=str(package.folder), shadow_report=report)
    assert open_shadow(settings, Figures(), Journal(log)) is None
    assert json.loads(log.getvalue())["reason"].startswith("no shadow")


def test_a_form_is_let_go_with_its_request(package):
    body = form_of([bytes(4_000_000)] * 2)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/scores",
        "query_string": b"",
        "headers": [(b"content-type", b"multipart/form-data; boundary=x")],
    }

    async def scene():
        app = create_app(package, ServiceSettings(), journal=Journal(io.StringIO()))

        async def call():
            sent = []

            async def receive():
                return {"type": "http.request", "body": body}

            async def send(message):
                sent.append(message)

            await app({**scope, "scheme": "http"}, receive, send)
            return sent[0]["status"]

        await call()
        tracemalloc.start()
        try:
            assert [await call() for _ in range(3)] == [503] * 3
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    with nothing_collected():
        assert asyncio.run(scene()) < 4_000_000


def test_a_fault_inside_is_a_problem_body_and_a_log_line(package, monkeypatch):
    async def scene():
        log = io.StringIO()
        app = create_app(package, ServiceSettings(), journal=Journal(log))
        monkeypatch.setattr("services.inference.about.summary_of", lambda *_: 1 / 0)
        async with asgi(app) as client:
            answer = await client.get("/v1/model")
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert "ZeroDivision" not in answer.text
        lines = [json.loads(line) for line in log.getvalue().splitlines()]
        fault = next(line for line in lines if line["event"] == "fault")
        assert (fault["event"], fault["error"]) == ("fault", "ZeroDivisionError")
        assert fault["request_id"] == answer.headers["x-request-id"]

    asyncio.run(scene())
