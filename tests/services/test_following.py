"""The alias of a real MLflow server changes under load; a broken package; a registry that goes away."""

import asyncio
import io
import os
import shutil
import sys
import threading
import time

import pytest

from data_schemas.files import sha256
from pipeline.model.export import export_package
from pipeline.model.opening import CheckError
from pipeline.model.package import open_package
from pipeline.model.runtime import Runtime
from pipeline.model.scoring import score_bytes
from pipeline.tracking.registry import register
from pipeline.tracking.store import open_client
from services.inference import engine
from services.inference.engine import Around, Engine
from services.inference.figures import Figures
from services.inference.following import News, write_news
from services.inference.journal import Journal
from services.inference.settings import ServiceSettings
from tests.model import tiny_network as tiny
from tests.services.conftest import CONTRACT, log_with, serving, wait_until_ready
from tests.services.test_scores import JPEG, post
from tests.tracking.conftest import RealServer

SWAPS = int(os.environ.get("HILUM_LOAD_SWAPS", "3"))
PATIENCE_S = 90
NAME = "followed"


@pytest.fixture(scope="module")
def registry(migrated_store, tmp_path_factory):
    """A real server with two good versions; it can be killed."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(migrated_store, folder / "mlflow.db")
    server = RealServer(folder)
    server.start()
    for seed in (1, 2):
        registered(server, made(tmp_path_factory.mktemp("made") / "package", seed))
    server.client().set_registered_model_alias(NAME, "champion", "1")
    yield server
    server.kill()


def made(folder, seed):
    card = tiny.card(contract=CONTRACT, name=f"network-{seed}")
    images = tiny.images(count=4, size=CONTRACT.size)
    export_package(tiny.EvidenceNetwork(2, seed=seed), images, card, CONTRACT, folder)
    return open_package(folder)


def registered(server, package):
    client = open_client(server.uri)
    found = client.get_experiment_by_name("served")
    # an experiment of the server's own: its files lie where the server keeps them
    experiment = client.create_experiment("served") if found is None else found.experiment_id
    run = client.create_run(experiment)
    return register(server.uri, run.info.run_id, package.folder, NAME, "newest")


@pytest.fixture(scope="module")
def followed(registry, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "service.jsonl"
    words = [f"models:/{NAME}@champion", log, "--follow-seconds", "0.3", "--workers", "2"]
    settings = {"MLFLOW_TRACKING_URI": registry.uri, "HILUM_THREADS": "1"}
    with serving(*words, **settings) as running:
        wait_until_ready(running, workers=2)
        yield running


def until(true):
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_champion_that_could_not_be_taken_is_tried_again(package, tmp_path, monkeypatch):
    settings, tried = ServiceSettings(threads=1, follow_seconds=0.001), []

    def hindered(folder, **options):
        tried.append(folder)
        if len(tried) < 3:
            raise MemoryError
        return open_package(folder, **options)

    monkeypatch.setattr(engine, "NEWS_EVERY_S", 0.01)
    monkeypatch.setattr(engine, "open_package", hindered)
    write_news(tmp_path, News(str(package.folder), "1", package.sha256))
    around = Around(tmp_path)
    found = Engine(package, settings, "1", Figures(), Journal(io.StringIO()), around)
    found.start()
    try:
        until(lambda: found.state == "ready")
        write_news(tmp_path, News(str(package.folder), "2", package.sha256))
        until(lambda: found.version == "2")
    finally:
        asyncio.run(found.stop())
    assert len(tried) == 3


@pytest.mark.parametrize(("error", "ends"), [(MemoryError(), 1), (CheckError("differs"), 0)])
def test_what_may_pass_ends_the_worker_and_a_wrong_model_does_not(
    package, monkeypatch, error, ends
):
    def fail(*_words, **_named):
        raise error

    monkeypatch.setattr(engine, "open_runtime", fail)
    ended, settings = [], ServiceSettings(threads=1)
    around = Around(hindered=lambda: ended.append(True))
    found = Engine(package, settings, "1", Figures(), Journal(io.StringIO()), around)
    found._load()
    assert (found.state, len(ended)) == ("failed", ends)


class Clients:
    """Two clients that ask without a pause, and what they were told."""

    def __init__(self, served):
        self._served = served
        self._end = threading.Event()
        self.answers = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _ask(self):
        while not self._end.is_set():
            with self._served.client() as client:  # anew each time: any worker may answer
                for _ in range(5):
                    self.answers.append(post(client, JPEG))

    def wait_for(self, version, times=20):
        end = time.monotonic() + PATIENCE_S
        while True:
            last = self.answers[-times:]
            if len(last) == times and {versions_of(one) for one in last} == {version}:
                return
            assert time.monotonic() < end, [versions_of(one) for one in last]
            time.sleep(0.05)


def versions_of(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["model"]["version"]


def model_of(served):
    with served.client() as client:
        return client.get("/v1/model").json()


def test_the_alias_changes_under_load_and_no_request_fails(registry, followed, tmp_path):
    with Clients(followed) as clients:
        clients.wait_for("1")
        for swap in range(SWAPS):
            version = "2" if swap % 2 == 0 else "1"
            registry.client().set_registered_model_alias(NAME, "champion", version)
            clients.wait_for(version)
    told = {}
    for answer in clients.answers:
        assert answer.status_code == 200, answer.text
        score = answer.json()
        model = score["model"]
        told.setdefault(model["version"], set()).add(
            (model["name"], model["package_sha256"], tuple(score["logits"]))
        )
    # each version is one package with one answer about the one image: none mixed two
    assert {version: len(kinds) for version, kinds in told.items()} == {"1": 1, "2": 1}
    for version, ((name, digest, logits),) in told.items():
        package = made(tmp_path / version, int(version))
        alone = score_bytes(package, Runtime(package), JPEG)
        assert (name, digest) == (f"network-{version}", package.sha256)
        assert logits == pytest.approx(alone.logits, abs=1e-5)
    sys.stdout.write(f"{SWAPS} swaps, {len(clients.answers)} answers, all 200" + "\n")


def test_a_corrupt_package_is_refused_and_the_old_one_goes_on(registry, followed, tmp_path):
    before = model_of(followed)["version"]
    number = registered(registry, made(tmp_path / "package", 3))
    altered = 0
    for graph in registry.folder.glob("artifacts/**/model.onnx"):
        data = graph.read_bytes()
        if sha256(data) == sha256((tmp_path / "package" / "model.onnx").read_bytes()):
            graph.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
            altered += 1
    assert altered == 1
    registry.client().set_registered_model_alias(NAME, "champion", number)
    with Clients(followed) as clients:
        log_with(followed, '"event": "model_refused"', seconds=PATIENCE_S)
        clients.wait_for(before)
    end = time.monotonic() + 60
    # each time another worker may answer, and they hear the news one after the other
    while (told := model_of(followed)["following"])["refused_version"] != number:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert "differs from its digest" in told["refused_reason"]
    with followed.client() as client:
        assert "hilum_model_refused 1.0" in client.get("/metrics").text
        assert client.get("/readyz").status_code == 200
    registry.client().set_registered_model_alias(NAME, "champion", before)


def test_a_registry_that_goes_away_is_told_and_changes_nothing(registry, followed):
    registry.kill()
    with Clients(followed) as clients:
        log_with(followed, '"event": "registry_away"', seconds=PATIENCE_S)
        count = len(clients.answers)
        while len(clients.answers) < count + 10:
            time.sleep(0.05)
    assert {answer.status_code for answer in clients.answers} == {200}
    end = time.monotonic() + 60
    while model_of(followed)["following"]["registry_up"]:
        assert time.monotonic() < end
        time.sleep(0.1)
    with followed.client() as client:
        assert "hilum_registry_up 0.0" in client.get("/metrics").text
    registry.start()  # may take a minute on a busy machine
    log_with(followed, '"event": "registry_back"', seconds=PATIENCE_S)
