"""A real MLflow server that can be killed and started again on the same address."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from pipeline.tracking import sender, store


class RealServer:
    """``mlflow server`` as a process of its own, on a store that stays."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process = None

    def start(self):
        if self._process is not None:
            return
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        words += ["--port", str(self.port), "--workers", "1"]
        words += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        words += ["--artifacts-destination", str(self.folder / "artifacts")]
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        env |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        with (self.folder / "server.txt").open("a") as output:
            self._process = subprocess.Popen(
                words, cwd=self.folder, env=env, stdout=output, stderr=output
            )
        end = time.monotonic() + 300  # a busy machine needs minutes
        while not store.answers(self.uri):
            assert self._process.poll() is None, (self.folder / "server.txt").read_text()[-2000:]
            assert time.monotonic() < end
            time.sleep(0.2)

    def kill(self):
        if self._process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.send_signal(signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._process = None

    def client(self):
        """Return a client of the store behind the server, which needs no server."""
        return store.open_client(f"sqlite:///{self.folder}/mlflow.db")


@pytest.fixture(scope="module")
def real_server(migrated_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(migrated_store, folder / "mlflow.db")
    server = RealServer(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def impatient(monkeypatch):
    """Ask a store that is away every quarter second."""
    monkeypatch.setattr(sender, "FIRST_PAUSE_S", 0.25)
    monkeypatch.setattr(sender, "LONGEST_PAUSE_S", 0.25)
