"""A package goes into the registry and comes back whole, or not at all."""

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_schemas.errors import TrackingError
from pipeline.tracking import registry, store
from pipeline.tracking.runs import tracked_run

ROOT = Path(__file__).parents[2]


def package(folder, **files):
    """Write a folder with SHA256SUMS, as a package has."""
    folder.mkdir()
    lines = []
    for name, text in files.items():
        file = folder / f"{name}.bin"
        file.write_text(text)
        lines.append(f"{hashlib.sha256(text.encode()).hexdigest()}  {file.name}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))
    return folder


def run_of(uri):
    with tracked_run(uri, "eyes", "a") as run:
        pass
    return run.run_id


def test_a_registered_package_comes_back_byte_for_byte(mlflow_uri, tmp_path):
    run_id = run_of(mlflow_uri)
    folder = package(tmp_path / "package", model="weights", card="{}")
    assert registry.register(mlflow_uri, run_id, folder, "eyes", "champion") == "1"
    got = registry.fetch_with_client("models:/eyes@champion", mlflow_uri, tmp_path / "got")
    assert (got.name, got.version, got.folder.name) == ("eyes", "1", "eyes-1")
    assert {f.name: f.read_bytes() for f in got.folder.iterdir()} == {
        f.name: f.read_bytes() for f in folder.iterdir()
    }
    again = registry.fetch_with_client("models:/eyes/1", mlflow_uri, tmp_path / "got")
    assert again == got
    assert [path.name for path in (tmp_path / "got").iterdir()] == ["eyes-1"]
    client = store.open_client(mlflow_uri)
    assert client.get_run(run_id).outputs.model_outputs


def test_the_alias_moves_and_the_move_is_written_down(mlflow_uri, tmp_path):
    run_id = run_of(mlflow_uri)
    for number in (1, 2):
        folder = package(tmp_path / f"p{number}", model=str(number))
        registry.register(mlflow_uri, run_id, folder, "eyes", "champion")
    client = store.open_client(mlflow_uri)
    held = client.get_model_version_by_alias("eyes", "champion")
    assert int(held.version) == 2
    assert held.tags["hilum.promoted.instead_of"] == "1"
    assert held.tags["hilum.promoted.by_run"] == run_id
    assert held.tags["hilum.promoted.at"].endswith("Z")
    assert (
        held.tags["hilum.package_sha256"]
        == hashlib.sha256((tmp_path / "p2" / "SHA256SUMS").read_bytes()).hexdigest()
    )
    assert (tmp_path / "mlflow.db").exists() is False  # MLflow's own default stays unused


def test_fetching_loads_no_mlflow(mlflow_uri, tmp_path):
    registry.register(
        mlflow_uri, run_of(mlflow_uri), package(tmp_path / "p", a="1"), "eyes", "best"
    )
    script = (
        "import sys, pathlib\n"
        "from pipeline.tracking.registry import fetch_package\n"
        f"got = fetch_package('models:/eyes@best', {mlflow_uri!r}, pathlib.Path({str(tmp_path / 'g')!r}))\n"
        "assert 'mlflow' not in sys.modules, 'MLflow was loaded'\n"
        "print(got.folder)\n"
    )
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "g" / "eyes-1"


def test_a_relative_folder_is_the_callers(mlflow_uri, tmp_path, monkeypatch):
    registry.register(
        mlflow_uri, run_of(mlflow_uri), package(tmp_path / "p", a="1"), "eyes", "best"
    )
    monkeypatch.chdir(tmp_path)
    got = registry.fetch_package("models:/eyes@best", mlflow_uri, Path("here"))
    assert got.folder == tmp_path / "here" / "eyes-1"
    assert (got.folder / "SHA256SUMS").is_file()


def test_an_unknown_model_is_said_by_the_child_as_by_us(mlflow_uri, tmp_path):
    with pytest.raises(TrackingError, match="no `models:/nothing@champion`") as refused:
        registry.fetch_package("models:/nothing@champion", mlflow_uri, tmp_path / "got")
    assert "hilum register" in refused.value.mend


def test_an_altered_file_is_refused(mlflow_uri, tmp_path):
    run_id = run_of(mlflow_uri)
    folder = package(tmp_path / "p", model="weights")
    registry.register(mlflow_uri, run_id, folder, "eyes", "champion")
    stored = next((tmp_path / "store" / "mlruns").rglob("model.bin"))
    stored.write_text("altered")
    with pytest.raises(TrackingError, match=r"model\.bin differs"):
        registry.fetch_with_client("models:/eyes@champion", mlflow_uri, tmp_path / "got")
    assert not list((tmp_path / "got").glob("*"))


def test_a_harmed_copy_on_disk_is_fetched_again(mlflow_uri, tmp_path):
    run_id = run_of(mlflow_uri)
    folder = package(tmp_path / "p", model="weights")
    registry.register(mlflow_uri, run_id, folder, "eyes", "champion")
    got = registry.fetch_with_client("models:/eyes/1", mlflow_uri, tmp_path / "got")
    (got.folder / "model.bin").write_text("bit rot")
    registry.fetch_with_client("models:/eyes/1", mlflow_uri, tmp_path / "got")
    assert (got.folder / "model.bin").read_text() == "weights"


@pytest.mark.parametrize("name", ["a/b", "", "a b", "a:b", "x" * 101])
def test_a_name_that_mlflow_cannot_address_is_refused(tmp_path, name):
    folder = package(tmp_path / "p", a="1")
    with pytest.raises(TrackingError, match="model's name"):
        registry.register("sqlite:///unused.db", "0" * 32, folder, name, "champion")


@pytest.mark.parametrize("alias", ["latest", "v1", "", "1st", "a b"])
def test_a_reserved_alias_is_refused(tmp_path, alias):
    folder = package(tmp_path / "p", a="1")
    with pytest.raises(TrackingError, match="alias"):
        registry.register("sqlite:///unused.db", "0" * 32, folder, "eyes", alias)


def test_a_folder_that_is_no_package_is_refused(tmp_path):
    with pytest.raises(TrackingError, match="not a model package"):
        registry.register("sqlite:///unused.db", "0" * 32, tmp_path, "eyes", "champion")


@pytest.mark.parametrize(
    "uri", ["models:/a", "models:/a@", "models:/a/b", "runs:/x/y", "a", "models:/a@b/3"]
)
def test_what_is_no_registry_address_is_refused(uri):
    with pytest.raises(TrackingError, match="registry address"):
        registry.parse_model_uri(uri)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", ".hidden", "a/b", ""])
def test_a_list_of_digests_cannot_point_outside(name):
    with pytest.raises(TrackingError):
        registry.listed_files(f"{'0' * 64}  {name}\n")


@given(st.text(max_size=200))
def test_any_list_of_digests_is_read_or_refused(text):
    try:
        files = registry.listed_files(text)
    except TrackingError:
        return
    assert all("/" not in name and not name.startswith(".") for name in files)


class _Answers(http.server.BaseHTTPRequestHandler):
    """An MLflow server that holds nothing, or answers nonsense."""

    mode = "empty"

    def do_GET(self):
        bodies = {
            "empty": (404, json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST"}).encode()),
            "html": (200, b"<html>a login page</html>"),
            "broken": (500, b"oops"),
        }
        code, body = bodies[type(self).mode]
        if self.path == "/health":
            code, body = 200, b"OK"
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@pytest.mark.parametrize(
    ("mode", "words"),
    [("empty", "registry has no"), ("html", "not MLflow's"), ("broken", "answers 500")],
)
def test_a_server_with_another_answer_is_a_tracking_error(tmp_path, mode, words):
    handler = type("Handler", (_Answers,), {"mode": mode})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        uri = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(TrackingError, match=words):
            registry.fetch_package("models:/eyes@champion", uri, tmp_path)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_the_whole_round_trip_through_a_real_server(migrated_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    database = tmp_path / "server.db"
    database.write_bytes(migrated_store.read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--workers", "1", "--backend-store-uri", f"sqlite:///{database}"]
    words += ["--artifacts-destination", str(tmp_path / "artifacts")]
    quiet = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            words,
            cwd=tmp_path,
            env={**os.environ, **quiet},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_for(uri, server)
            with tracked_run(uri, "eyes", "over http") as run:
                run.log_metrics({"train/loss": 1.0}, step=1)
                run.log_text("hello", "config/a.txt")
            client = store.open_client(uri)
            assert client.get_run(run.run_id).info.status == "FINISHED"
            assert client.get_run(run.run_id).info.artifact_uri.startswith("mlflow-artifacts:")
            folder = package(tmp_path / "package", model="weights" * 1000, card="{}")
            assert registry.register(uri, run.run_id, folder, "eyes", "champion") == "1"
            for address in ("models:/eyes@champion", "models:/eyes/1"):
                got = registry.fetch_package(address, uri, tmp_path / "got" / address[-8:])
                assert (got.folder / "model.bin").read_bytes() == (
                    folder / "model.bin"
                ).read_bytes()
            with pytest.raises(TrackingError, match="registry has no"):
                registry.fetch_package("models:/eyes@nobody", uri, tmp_path / "got")
            with pytest.raises(TrackingError, match="registry has no"):
                registry.fetch_package("models:/eyes/9", uri, tmp_path / "got")
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)


def _wait_for(uri, server):
    for _ in range(360):
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=2):  # noqa: S310 - our own server
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server didn't answer in 180 s")
