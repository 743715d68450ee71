"""A small real package, and a real server that serves it, once per session."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from data_schemas.contract import Accept, Contract
from pipeline.model.export import export_package
from pipeline.model.package import open_package
from tests.model import tiny_network as tiny

ROOT = Path(__file__).parents[2]
SHARED = ROOT / ".." / "shared" / "data"
CONTRACT = Contract(
    name="fundus",
    size=64,
    channels=3,
    region="fundus_field",
    accept=Accept(colour="required"),
)


@dataclass
class Served:
    """A running service: where it is, its process, and the file that its log goes to."""

    url: str
    name: str
    process: subprocess.Popen
    log: Path

    def client(self, **options):
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40)


@contextmanager
def serving(folder, log, *words, **environment):
    """Run `hilum serve` as a child process; from its first line on until the block ends."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "services.cli.main",
                "serve",
                str(folder),
                "--port",
                "0",
                *words,
            ],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        )
    with process:
        try:
            line = process.stdout.readline()
            assert line.startswith("serving "), log.read_text()
            name, _, url = line.removeprefix("serving ").strip().rpartition(" on ")
            served = Served(url, name, process, log)
            yield served
            if process.poll() is None:
                assert served.stop() == 0
        finally:
            process.kill()


def wait_until_ready(served, seconds=120, workers=1):
    """Wait until so many workers have said that their model is loaded, and one of them answers so."""
    end = time.monotonic() + seconds
    while workers > 1 and served.log.read_text().count('"event": "ready"') < workers:
        assert time.monotonic() < end, served.log.read_text()[-3000:]
        time.sleep(0.05)
    with served.client() as client:
        while True:
            answer = client.get("/readyz")
            if answer.status_code == 200:
                return
            failed = "loaded and checked." not in answer.json()["detail"]
            assert not failed, served.log.read_text()
            assert time.monotonic() < end, answer.text
            time.sleep(0.05)


def children_of(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def log_with(served, text, seconds=5):
    """Return the service's log once it holds ``text`` (it is written after the answer is sent)."""
    end = time.monotonic() + seconds
    while text not in served.log.read_text():
        assert time.monotonic() < end, "no such line in the log"
        time.sleep(0.02)
    return served.log.read_text()


def write_package(folder, contract=CONTRACT, **changes):
    card = tiny.card(contract=contract, name="small-fundus", **changes)
    images = tiny.images(count=4, size=contract.size)
    export_package(tiny.EvidenceNetwork(2), images, card, contract, folder)
    return open_package(folder)


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """A package of a tiny network, under a contract for fundus photographs."""
    return write_package(tmp_path_factory.mktemp("served") / "package")


@pytest.fixture(scope="session")
def served(package, tmp_path_factory):
    """The running service of the package."""
    log = tmp_path_factory.mktemp("log") / "service.jsonl"
    with serving(package.folder, log, "--max-body-mb", "8") as running:
        wait_until_ready(running)
        yield running


@pytest.fixture
def client(served):
    """A client of the running service."""
    with served.client() as opened:
        yield opened


def shared(*names):
    """Return a file of the shared data, or skip saying what is missing."""
    path = SHARED.joinpath(*names)
    if not path.exists():
        pytest.skip(f"needs ../shared/data/{'/'.join(names)}")
    return path
