"""Drift as figures: nothing where nothing changed, a lot where much did, summed over workers."""

import re
import time

import numpy as np
import pytest

from pipeline.imaging.kinds import prepare_any_kind, read_any_kind
from pipeline.model.export import export_package
from pipeline.model.package import open_package
from pipeline.model.reference import Histogram, Seen, looks, make_reference
from pipeline.model.runtime import Runtime
from pipeline.model.scoring import score_prepared
from pipeline.model.wanted import Wanted
from services.inference.drift import stability_index
from services.inference.figures import Figures
from tests.model import tiny_network as tiny
from tests.services import drawn_files as drawn
from tests.services.conftest import CONTRACT, serving, wait_until_ready


def prepared(seed):
    instance = read_any_kind(drawn.encoded(drawn.fundus(seed, side=160)), CONTRACT)
    return prepare_any_kind(instance, CONTRACT), instance


@pytest.fixture(scope="module")
def referred(tmp_path_factory):
    """A package that knows 90 drawn photographs, and their scores and sights."""
    folder = tmp_path_factory.mktemp("referred")
    card = tiny.card(contract=CONTRACT, name="small-fundus")
    images = tiny.images(count=4, size=CONTRACT.size)
    network = tiny.EvidenceNetwork(2)
    export_package(network, images, card, CONTRACT, folder / "plain")
    plain = Runtime(open_package(folder / "plain"))
    own = np.stack([prepared(seed)[0].pixels for seed in range(90)])
    logits = np.concatenate([plain.run(own[k : k + 30]).logits for k in range(0, 90, 30)])
    embeddings = np.concatenate([plain.run(own[k : k + 30]).embedding for k in range(0, 90, 30)])
    seen = Seen(embeddings, looks(own))
    chances = {
        output.label: 1 / (1 + np.exp(-logits[:, k])) for k, output in enumerate(card.outputs)
    }
    reference = make_reference(seen, seen, "calibration", chances)
    export_package(network, images, card, CONTRACT, folder / "package", reference=reference)
    return open_package(folder / "package")


def told(figures, name, version="1"):
    found = re.findall(
        rf'^hilum_drift_{name}\{{(?:of="([^"]+)",)?version="{version}"}} (\S+)',
        figures.exposition().decode(),
        re.MULTILINE,
    )
    return {of: float(value) for of, value in found}


def test_the_same_images_show_no_drift_and_others_do(referred):
    figures, runtime = Figures(), Runtime(referred)
    figures.drift.follow("1", referred.reference, 60)

    def score(seed, change=lambda pixels: pixels):
        found, instance = prepared(seed)
        found = type(found)(change(found.pixels), found.region, found.quality, ())
        score_prepared(
            referred, runtime, instance, found, version="1", wanted=Wanted(watch=figures.drift.note)
        )  # fmt: skip

    for seed in range(60):
        score(seed)
    assert told(figures, "images") == {"": 60}
    calm = told(figures, "psi")
    assert set(calm) == set(referred.reference.histograms)
    assert max(calm.values()) < 0.1
    assert told(figures, "embedding_shift")[""] < 0.3
    for seed in range(60):
        score(seed, lambda pixels: pixels // 2)
    assert told(figures, "images") == {"": 60}  # the oldest have left
    assert told(figures, "psi")["quality/brightness"] > 1
    assert told(figures, "embedding_shift")[""] > 1
    assert "hilum_window" not in figures.exposition().decode()


def test_a_new_version_begins_anew_and_late_scores_of_the_old_one_are_left_out(referred):
    figures, runtime = Figures(), Runtime(referred)
    found, instance = prepared(0)

    def score(version):
        score_prepared(
            referred,
            runtime,
            instance,
            found,
            version=version,
            wanted=Wanted(watch=figures.drift.note),
        )

    figures.drift.follow("1", referred.reference, 10)
    score("1")
    figures.drift.follow("2", referred.reference, 10)
    score("1")
    score("2")
    assert told(figures, "images", "2") == {"": 1}
    assert told(figures, "images") == {}


def test_the_index_is_that_of_its_formula():
    histogram = Histogram(np.array([0.5]), np.array([0.25, 0.75]))
    p, q = np.array([30.5, 70.5]) / 101, np.array([50.5, 150.5]) / 201
    expected = ((p - q) * np.log(p / q)).sum()
    assert stability_index({0: 30, 1: 70}, histogram, 200) == pytest.approx(expected)
    # empty bins are no infinity
    assert stability_index({1: 10}, histogram, 200) < 1


def test_a_package_without_reference_has_no_drift(referred):
    figures, runtime = Figures(), Runtime(referred)
    figures.drift.follow("1", None, 100)
    found, instance = prepared(0)
    score_prepared(
        referred, runtime, instance, found, version="1", wanted=Wanted(watch=figures.drift.note)
    )
    assert told(figures, "images") == {}
    assert told(figures, "psi") == {}


def test_two_workers_add_up(referred, tmp_path):
    words = [referred.folder, tmp_path / "log", "--workers", "2"]
    with serving(*words, HILUM_DRIFT_WINDOW="12", HILUM_THREADS="1") as served:
        wait_until_ready(served)
        for seed in range(20):
            with served.client() as client:  # anew each time: any worker may answer
                body = drawn.encoded(drawn.fundus(seed, side=160))
                answer = client.post("/v1/scores", content=body)
                while answer.status_code == 503:  # the other worker is still loading
                    assert answer.json()["code"] == "NOT_READY"
                    time.sleep(0.1)
                    answer = client.post("/v1/scores", content=body)
                assert answer.status_code == 200
        with served.client() as client:
            text = client.get("/metrics").text
    count = float(re.search(r'drift_images\{version=""} (\S+)', text)[1])
    # each worker keeps half of the window
    assert 6 <= count <= 12
    assert 'hilum_drift_psi{of="distance",version=""}' in text
    assert "hilum_batch_size_count 20.0" in text
    assert "hilum_window" not in text
