"""`hilum train` from the shell: settings, the printed answer, signals, several processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tracking import store
from services.cli.main import main
from services.cli.settings import tracking_uri

ROOT = Path(__file__).parents[2]
FAST = ["network.backbone=convnet", "learning.epochs=1", "learning.batch=16", "threads=1"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, drawn_dataset):
    """A data set folder that the real ingestion wrote."""
    return drawn_dataset(tmp_path_factory.mktemp("data"), (60, 40, 20), noise=100, bright=120)


def words(dataset, *more):
    sets = [word for setting in FAST for word in ("--set", setting)]
    return ["train", str(dataset), "--config", os.devnull, *sets, *more]  # not a plan of its own


def test_it_prints_the_run_and_what_comes_next(dataset, mlflow_uri, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    assert main(words(dataset, "--json", "--name", "mine", "--experiment", "ours")) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["experiment"] == "ours"
    assert answer["tracking_uri"] == mlflow_uri
    assert 0 <= answer["tune_auc"] <= 1
    assert "epoch 1/1: train loss" in printed.err
    assert "1/" in printed.err
    kept = store.open_client(mlflow_uri).get_run(answer["run_id"])
    assert (kept.info.status, kept.info.run_name) == ("FINISHED", "mine")


def test_what_is_wrong_is_said_before_anything_heavy_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "nowhere"]) == 2
    assert "no such data set folder" in capsys.readouterr().err
    assert main(["train", "nowhere", "--set", "learning.epoch=3"]) == 2
    assert "did you mean `learning.epochs`?" in capsys.readouterr().err
    assert main(["train", "nowhere", "--config", "nothing"]) == 2
    assert "demo" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_as_tracking_store_is_refused(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    assert main(words(dataset)) == 1
    assert "sqlite:///" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "sqlite:///{here}/mlflow.db"),
        ("sqlite:///runs/a.db", "sqlite:///{here}/runs/a.db"),
        ("sqlite:////data/a.db", "sqlite:////data/a.db"),
        ("http://mlflow:5000", "http://mlflow:5000"),
    ],
)
def test_the_tracking_address_is_absolute(tmp_path, monkeypatch, given, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert tracking_uri() == expected.format(here=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_is_killed_in_mlflow_too(dataset, mlflow_uri, tmp_path, number, code):
    shell = [sys.executable, "-m", "services.cli.main"]
    env = {**os.environ, "MLFLOW_TRACKING_URI": mlflow_uri, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [
            *shell,
            *words(dataset, "--set", "learning.epochs=2000", "--set", "learning.patience=2000"),
        ],
        cwd=tmp_path,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in child.stderr:
        if line.startswith("epoch 2/"):
            break
    child.send_signal(number)
    child.communicate(timeout=60)
    assert child.returncode == code
    client = store.open_client(mlflow_uri)
    experiment = client.get_experiment_by_name("tiny")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"
    assert "tune/auc" in run.data.metrics


@pytest.mark.slow
def test_two_processes_train_one_network(dataset, mlflow_uri, tmp_path):
    env = {
        **os.environ,
        "MLFLOW_TRACKING_URI": mlflow_uri,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    shell = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*shell, "-m", "services.cli.main", *words(dataset, "--set", "learning.epochs=2")]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    client = store.open_client(mlflow_uri)
    experiment = client.get_experiment_by_name("tiny")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert done.stdout.count("tune AUC") == 1
