"""Cross-validation: who is in which fold, what all folds say together, and a killed one that goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_schemas.errors import TrainingError
from data_schemas.plan import Plan
from data_schemas.progress import silent
from pipeline.ingest.store import open_dataset
from pipeline.tracking import store
from pipeline.tracking.children import child_runs
from pipeline.tracking.finding import download
from pipeline.train.folds import make_folds
from services.cli.console import Console
from services.cli.main import main

ROOT = Path(__file__).parents[2]
FAST = [
    "network.backbone=convnet",
    "network.stride=8",
    "learning.epochs=2",
    "learning.batch=16",
    "learning.checkpoint_minutes=0.00001",
    "threads=1",
]
PATIENTS, FOLDS = 24, 2


def draw(folder, patients=PATIENTS, seed=0):
    """Photographs of two eyes a patient: the larger the bright patch, the higher the grade."""
    generator = np.random.default_rng(seed)
    lines = ["image,patient,laterality,grade"]
    for patient in range(patients):
        grade = patient % 3
        for side in "LR":
            image = generator.integers(0, 120, (28, 28, 3)).astype(np.uint8)
            image[2 : 4 + 8 * grade, 2:26] += 110
            Image.fromarray(image).save(folder / f"{patient}{side}.png")
            lines.append(f"{patient}{side}.png,p{patient},{side},{grade}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def ingest(folder, out, *more):
    key = folder / "key"
    key.write_text("not a secret, this is a test")
    words = ["ingest", str(folder), "--labels", str(folder / "labels.csv"), "--out", str(out)]
    settings = ["--set", "size=28", "--key-file", str(key), "--ordinal", "grade=0,1,2"]
    assert main([*words, *settings, "--workers", "1", *more]) == 0
    return out


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    draw(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(photographs, tmp_path_factory):
    """A data set of which nothing is sealed, with folds of its own."""
    out = tmp_path_factory.mktemp("data") / "eyes"
    return ingest(photographs, out, "--shares", "train=1", "--folds", str(FOLDS))


@pytest.fixture(scope="module")
def sealed(photographs, tmp_path_factory):
    """The same photographs with a sealed test split and without folds."""
    return ingest(photographs, tmp_path_factory.mktemp("data") / "sealed", "--split", "stratified")


@pytest.fixture(scope="module")
def store_uri(migrated_store, tmp_path_factory):
    """A store in which one cross-validation has finished, and what it printed."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    shutil.copyfile(migrated_store, file)
    return f"sqlite:///{file}"


@pytest.fixture(scope="module")
def unbroken(dataset, store_uri):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": store_uri}  # fmt: skip
    command = [sys.executable, "-m", "services.cli.main", *words(dataset, "--json")]
    done = subprocess.run(command, cwd=dataset.parent, env=env, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr


def words(dataset, *more):
    sets = [word for setting in FAST for word in ("--set", setting)]
    return ["train", str(dataset), "--config", os.devnull, *sets, "--folds", str(FOLDS), *more]


def check(made, whole):
    """Every image is tested once; a patient is in one split of a fold; grades are spread."""
    tested = []
    for fold in made.folds:
        patients = fold.dataset.patients()
        splits = np.array(fold.dataset.manifest["split"].to_pylist())
        assert set(splits) == {"train", "tune", "calibration", "test"}
        for patient in np.unique(patients):
            assert len(set(splits[patients == patient])) == 1
        test = fold.dataset.indices("test")
        digests = fold.dataset.manifest["source_sha256"].to_pylist()
        tested += [digests[row] for row in test]
        assert len(set(fold.dataset.labels("grade")[test])) == 3
        assert fold.dataset.info.splits == {s: int((splits == s).sum()) for s in set(splits)}
        assert (
            fold.dataset.pixels(test[:3]) == whole.pixels(_rows(whole, digests, test[:3]))
        ).all()
    assert len(tested) == len(set(tested))
    return set(tested)


def _rows(whole, digests, rows):
    known = whole.manifest["source_sha256"].to_pylist()
    return np.array([known.index(digests[row]) for row in rows])


def test_the_stored_folds_are_used_and_every_image_is_tested_once(dataset):
    whole = open_dataset(dataset)
    made = make_folds(whole, Plan(folds=FOLDS), silent)
    assert check(made, whole) == set(whole.manifest["source_sha256"].to_pylist())
    stored = dict(
        zip(
            whole.manifest["source_sha256"].to_pylist(),
            whole.manifest["fold"].to_pylist(),
            strict=True,
        )
    )
    for fold in made.folds:
        digests = fold.dataset.manifest["source_sha256"].to_pylist()
        assert {stored[digests[row]] for row in fold.dataset.indices("test")} == {fold.number}
        assert fold.leaks.tag == "none between the folds"
    again = make_folds(open_dataset(dataset), Plan(folds=FOLDS), silent)
    for one, other in zip(made.folds, again.folds, strict=True):
        assert one.dataset.manifest.equals(other.dataset.manifest)


def test_a_sealed_test_split_stays_sealed(sealed):
    whole = open_dataset(sealed)
    made = make_folds(whole, Plan(folds=2), silent)
    hidden = {whole.manifest["source_sha256"][int(row)].as_py() for row in whole.indices("test")}
    assert hidden
    assert check(made, whole) == set(whole.manifest["source_sha256"].to_pylist()) - hidden
    assert f"{len(hidden)} images of sealed splits take no part" in made.notes[0]
    assert "dealt by patient for this run" in made.notes[1]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(folds=st.integers(2, 6))
def test_any_number_of_folds_keeps_patients_whole(sealed, folds):
    made = make_folds(open_dataset(sealed), Plan(folds=folds), silent)
    tested = [0] * made.folds[0].dataset.info.images
    for fold in made.folds:
        splits = np.array(fold.dataset.manifest["split"].to_pylist())
        patients = fold.dataset.patients()
        for patient in np.unique(patients):
            assert len(set(splits[patients == patient])) == 1
        for row in fold.dataset.indices("test"):
            tested[row] += 1
    assert set(tested) == {1}


def test_too_few_patients_are_refused_before_anything_is_tracked(
    sealed, mlflow_uri, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    whole = open_dataset(sealed)
    with pytest.raises(TrainingError, match="can't make 20 folds"):
        make_folds(whole, Plan(folds=20), silent)
    assert main([*words(sealed), "--folds", "20"]) == 1
    assert "can't make 20 folds" in capsys.readouterr().err
    assert store.open_client(mlflow_uri).get_experiment_by_name("sealed") is None


def test_all_folds_are_trained_measured_and_pooled(dataset, unbroken, store_uri, tmp_path):
    answer, said = unbroken
    client = store.open_client(store_uri)
    parent = client.get_run(answer["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["hilum.folds"] == str(FOLDS)
    below = child_runs(store_uri, answer["run_id"])
    assert [child.status for child in below] == ["FINISHED"] * FOLDS
    assert {child.tags["hilum.fold"] for child in below} == {"0", "1"}
    assert {one["run_id"] for one in answer["folds"]} == {child.run_id for child in below}
    for child in below:
        assert {a.path for a in client.list_artifacts(child.run_id)} >= {
            "package",
            "evaluation.json",
        }
    assert sum(one["images"] for one in answer["folds"]) == 2 * PATIENTS
    pooled = answer["pooled"]
    for key in ("auc/grade_ge1", "auc/grade_ge2", "kappa/grade", "ece/grade_ge2"):
        one = pooled[key]
        # where all draws are alike there are no limits
        alike = one["low"] is None and "every draw gave the same" in one["method"]
        assert alike or one["low"] <= one["value"] <= one["high"], key
        assert parent.data.metrics[f"pooled/{key.replace('/', '_')}"] == pooled[key]["value"]
    local = client.download_artifacts(
        answer["run_id"], "evaluation/predictions.parquet", str(tmp_path)
    )
    table = pq.read_table(local)
    assert table.num_rows == 2 * PATIENTS
    assert set(table["fold"].to_pylist()) == set(range(FOLDS))
    assert sorted(table["source_sha256"].to_pylist()) == sorted(
        open_dataset(dataset).manifest["source_sha256"].to_pylist()
    )
    note = parent.data.tags["mlflow.note.content"]
    assert note.count("<br>") == 4
    assert f"{FOLDS} folds by patient" in note
    page = download(store_uri, parent.info.run_id, "folds.md", tmp_path).read_text()
    assert all(child.run_id in page for child in below)
    assert "fold 2 of 2: " in said
    assert not list((Path(store_uri.removeprefix("sqlite:///")).parent / ".hilum/state").iterdir())


def test_a_killed_cross_validation_goes_on_with_the_fold_it_was_in(
    dataset, unbroken, store_uri, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    whole, _ = unbroken
    state = Path(store_uri.removeprefix("sqlite:///")).parent / ".hilum/state"
    before = {child.tags["hilum.fold"]: child for child in child_runs(store_uri, whole["run_id"])}
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "services.cli.main", *words(dataset)]
    with (tmp_path / "output.txt").open("w") as output:
        child = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=output, stderr=output)
        said = tmp_path / "output.txt"
        while "fold 2 of 2: " not in said.read_text() or not any(
            state.glob("*/epoch-00002-step-*")
        ):
            assert child.poll() is None, said.read_text()[-3000:]
            time.sleep(0.005)
        psutil.Process(child.pid).send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    told = []
    monkeypatch.setattr(Console, "progress", lambda _, *told_now: told.append(told_now))
    assert main(["train", str(dataset), "--resume", "last", "--json"]) == 0
    printed = capsys.readouterr()
    # the first figure is the base of rate and time left: the fold that is done and the epoch before
    done, total, _ = next(one for one in told if one[2].startswith("fold 2"))
    assert total * 3 / 4 < done <= total
    assert not any(one[2].startswith("fold 1") for one in told)
    resumed = json.loads(printed.out)
    assert resumed["run_id"] != whole["run_id"]
    assert "fold 1 of 2: run" in printed.err
    assert "goes on in epoch" in printed.err
    after = {one.tags["hilum.fold"]: one for one in child_runs(store_uri, resumed["run_id"])}
    assert len(child_runs(store_uri, resumed["run_id"])) == FOLDS
    assert {one.status for one in after.values()} == {"FINISHED"}
    assert "hilum.resumed" not in after["0"].tags
    assert after["1"].tags["hilum.resumed"] == "1"
    for fold, one in before.items():
        assert after[fold].tags["hilum.weights_sha256"] == one.tags["hilum.weights_sha256"]
    assert resumed["pooled"] == whole["pooled"]
    assert store.open_client(store_uri).get_run(resumed["run_id"]).data.tags["hilum.resumed"] == "1"
