"""What goes wrong in a training, made to happen: each ends as docs/training.md says, its history whole."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from data_schemas.errors import TrainingError
from data_schemas.plan import Learning, Plan
from pipeline.tracking import endings, store, vitals
from pipeline.tracking.finding import download
from pipeline.train import faults
from pipeline.train.world import World
from services.cli.main import main

ROOT = Path(__file__).parents[2]
PLAN = """network: {backbone: convnet, stride: 8}
learning: {epochs: 3, batch: 16, checkpoint_minutes: 0.00001}
threads: 1
"""
SHELL = [sys.executable, "-m", "services.cli.main"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A data set folder that the real ingestion wrote, and a plan beside it."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 64), ("val", 24), ("test", 12)):
        truth = (np.arange(n) % 2).astype(np.uint8)
        images = generator.integers(0, 150, (n, 28, 28, 3)).astype(np.uint8)
        images[truth == 1, :14] += 30
        arrays |= {f"{split}_images": images, f"{split}_labels": truth[:, None]}
    np.savez(folder / "tiny.npz", **arrays)
    (folder / "key").write_text("not a secret, this is a test")
    (folder / "fast.yaml").write_text(PLAN)
    words = ["ingest", str(folder / "tiny.npz"), "--out", str(folder / "set")]
    assert main([*words, "--key-file", str(folder / "key")]) == 0
    return folder / "set"


def words(dataset, *settings):
    sets = [word for setting in settings for word in ("--set", setting)]
    return ["train", str(dataset), "--config", str(dataset.parent / "fast.yaml"), *sets]


def only_run(uri):
    client = store.open_client(uri)
    experiment = client.get_experiment_by_name("tiny")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def epochs_of(uri, run_id):
    history = store.open_client(uri).get_metric_history(run_id, "train/loss")
    return [entry.step for entry in history]


def text_of(uri, run_id, path, folder):
    return download(uri, run_id, path, folder).read_text()


def environment(uri, **more):
    return {
        **os.environ,
        "MLFLOW_TRACKING_URI": uri,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **more,
    }


@contextlib.contextmanager
def training(command, uri, folder, until):
    """Start a training and yield it once ``until()`` is true."""
    output = folder / "output.txt"
    with output.open("w") as stream:
        child = subprocess.Popen(
            command, cwd=folder, env=environment(uri), stdout=stream, stderr=stream
        )
    try:
        end = time.monotonic() + 300
        while not until():
            assert child.poll() is None, output.read_text()[-3000:]
            assert time.monotonic() < end, "it never came that far"
            time.sleep(0.01)
        yield child
    finally:
        family = [child]
        with contextlib.suppress(psutil.NoSuchProcess):
            family += psutil.Process(child.pid).children(recursive=True)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        child.wait(60)


def test_a_batch_that_is_not_finite_names_its_images(dataset, mlflow_uri, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    wild = ("learning.rate=1e30", "learning.gradient_norm=1e30", "learning.warmup=0")
    assert main(words(dataset, *wild)) == 1
    said = capsys.readouterr().err
    assert "lower learning.rate" in said
    assert "errors/batch.json" in said
    run = only_run(mlflow_uri)
    assert run.info.status == "FAILED"
    assert "gradient norm" in run.data.tags[endings.FAILURE_TAG]
    batch = json.loads(text_of(mlflow_uri, run.info.run_id, "errors/batch.json", Path("got")))
    from pipeline.ingest.store import open_dataset

    opened = open_dataset(dataset)
    manifest = opened.manifest
    assert len(batch["images"]) == 16
    for image in batch["images"]:
        row = image["row"]
        assert manifest["split"][row].as_py() == "train"
        assert manifest["pixel_sha256"][row].as_py() == image["pixel_sha256"]
        (name,) = image["labels"]
        assert opened.labels(name)[row] == image["labels"][name]
        pixels = opened.pixels(np.array([row]))
        assert image["mean"] == pytest.approx(pixels.mean(), abs=0.01)
        assert (image["lowest"], image["highest"]) == (pixels.min(), pixels.max())
    trace = text_of(mlflow_uri, run.info.run_id, "errors/traceback.txt", Path("got"))
    assert "pipeline/train/loop.py" in trace
    assert str(ROOT) not in trace


def fill(folder, leave=0):
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while stream.write(b"x" * 65536):
            pass
    if leave:
        os.truncate(ballast, max(0, ballast.stat().st_size - leave))
    return ballast


@pytest.mark.disk("48m")
def test_a_state_folder_without_room_does_not_stop_a_training(
    dataset, mlflow_uri, disk, monkeypatch, capsys
):
    """Room for letters and figures, none for checkpoints, none for the package at the end."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    ballast = fill(disk, leave=1 << 20)
    command = [*words(dataset), "--state", str(disk / "state")]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "no checkpoint at epoch 1" in said
    assert "training goes on" in said
    assert "epoch 3/3" in said
    assert "no room is left on the disk" in said
    run = only_run(mlflow_uri)
    assert run.info.status == "FAILED"
    assert epochs_of(mlflow_uri, run.info.run_id) == [1, 2, 3]
    trace = text_of(mlflow_uri, run.info.run_id, "errors/traceback.txt", Path("got"))
    assert "TrainingError: no room is left on the disk" in trace
    ballast.unlink()
    go_on = ["train", str(dataset), "--resume", run.info.run_id]
    assert main([*go_on, "--state", str(disk / "state")]) == 0
    again = only_run(mlflow_uri)
    assert again.info.status == "FINISHED"
    assert epochs_of(mlflow_uri, run.info.run_id) == [1, 2, 3]


@pytest.mark.disk("48m")
def test_a_full_disk_under_the_store_stops_nothing_before_the_end(
    dataset, migrated_store, disk, tmp_path, monkeypatch, capsys
):
    """The database and its artifacts on a full disk; what is logged waits beside the checkpoints."""
    (disk / "mlflow.db").write_bytes(migrated_store.read_bytes())
    uri = f"sqlite:///{disk}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    ballast = disk / "ballast"
    from pipeline.train.tracker import Tracker

    real = Tracker.__call__

    def filling(self, epoch, step, metrics):
        real(self, epoch, step, metrics)
        if (epoch, step) == (2, 1) and not ballast.exists():
            self._run.flush()
            fill(disk)

    monkeypatch.setattr(Tracker, "__call__", filling)
    state = tmp_path / "state"
    assert main([*words(dataset), "--state", str(state)]) == 1
    said = capsys.readouterr().err
    assert "epoch 3/3" in said
    (folder,) = state.iterdir()
    assert f"hilum send {folder}" in said
    assert epochs_of(uri, folder.name) == [1]
    ballast.unlink()
    assert main(["send", str(folder)]) == 0
    assert "is FINISHED" in capsys.readouterr().out
    run = only_run(uri)
    assert run.info.status == "FINISHED"
    assert epochs_of(uri, folder.name) == [1, 2, 3]
    client = store.open_client(uri)
    package = {Path(one.path).name for one in client.list_artifacts(folder.name, "package")}
    assert {"model.onnx", "card.json", "SHA256SUMS"} <= package
    assert list(state.iterdir()) == []


SCARCE = """
import resource, sys
import torch, pipeline.train.run, mlflow
from pipeline.tracking.store import open_client
from services.cli.main import main
open_client(sys.argv[1])
torch.ones(64, 64) @ torch.ones(64, 64)
real = pipeline.train.run.train_network
def limited(*words):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), resource.RLIM_INFINITY))
    return real(*words)
pipeline.train.run.train_network = limited
code = main(sys.argv[2:])
sys.exit(code)
"""


def test_a_batch_that_does_not_fit_says_which_would(dataset, mlflow_uri, tmp_path):
    """A limit of the kernel on the process's memory, set when training begins."""
    # enlarged in the graph, a batch needs a gigabyte: the machine has it, this process may not
    command = words(dataset, "network.size=160", "learning.batch=32")
    done = subprocess.run(
        [sys.executable, "-c", SCARCE, mlflow_uri, *command],
        cwd=tmp_path,
        env=environment(mlflow_uri, MALLOC_ARENA_MAX="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-3000:]
    assert "batch 32 did not fit into memory: try 16" in done.stderr
    assert "go on with" not in done.stderr  # the same batch would not fit again
    run = only_run(mlflow_uri)
    assert run.info.status == "FAILED"
    assert "try 16" in run.data.tags[endings.FAILURE_TAG]
    trace = text_of(mlflow_uri, run.info.run_id, "errors/traceback.txt", Path("got"))
    assert "TrainingError: batch 32 did not fit" in trace


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "did not fit"),
        (MemoryError(), "did not fit"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "did not fit"),
        (OSError(errno.ENOMEM, "x"), "did not fit"),
        (OSError(errno.ENOSPC, "x", "/a/b"), "no room"),
        (RuntimeError("[gloo/pair.cc] Connection closed by peer [127.0.0.1]"), "another of the 2"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (KeyError("x"), None),
    ],
)
def test_a_librarys_words_become_ours(error, says):
    plan = Plan(learning=Learning(batch=24))
    found = faults.told(error, plan, World(0, 2))
    assert (found is None) == (says is None)
    if says:
        assert says in found.what
    if says == "did not fit":
        assert found.where == "learning.batch"
        assert "learning.batch=8" in found.mend
    assert faults.may_go_on(error) == (says != "did not fit")


def test_an_error_of_ours_stays_as_it_is():
    assert not faults.may_go_on(TrainingError("x"))
    assert faults.may_go_on(KeyboardInterrupt())
    one = faults.out_of_memory(Plan(learning=Learning(batch=1)), World())
    assert "smaller network.backbone" in one.mend


def test_a_plan_edited_wrongly_leaves_the_runs_history_alone(
    dataset, mlflow_uri, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    assert main(words(dataset)) == 0
    before = only_run(mlflow_uri)
    capsys.readouterr()
    bad = tmp_path / "mine.yaml"
    for text, says in (
        ("learning: {epoch: 3}", "did you mean `learning.epochs`"),
        ("learning:\n  batch: many", "mine.yaml:2"),
        ("learning: [", "mine.yaml:1"),
        ("network: {backbone: resnet19}", "resnet18"),
    ):
        bad.write_text(text)
        assert main(["train", str(dataset), "--config", str(bad)]) in (1, 2)
        assert says in capsys.readouterr().err
    after = only_run(mlflow_uri)  # no run was begun for any of them
    assert after.info.status == "FINISHED"
    assert after.data.metrics == before.data.metrics
    assert epochs_of(mlflow_uri, after.info.run_id) == [1, 2, 3]


def state_at(folder, epoch, step):
    def reached():
        # that far or farther: a checkpoint is soon replaced by the next but one
        least = f"epoch-{epoch:05d}-step-{step:07d}"
        return any(one.name >= least for one in folder.glob("store/.hilum/state/*/epoch-*"))

    return reached


LONG = ("learning.epochs=400", "learning.patience=400")


@pytest.mark.slow
def test_a_killed_training_is_closed_with_its_last_signs_of_life(
    dataset, mlflow_uri, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    command = [*SHELL, *words(dataset, *LONG)]
    with training(command, mlflow_uri, tmp_path, state_at(tmp_path, 3, 0)) as child:
        child.kill()
        assert child.wait() == -signal.SIGKILL
    run = only_run(mlflow_uri)
    assert run.info.status == "RUNNING"  # nobody could say it
    folder = tmp_path / "store" / ".hilum" / "state" / run.info.run_id
    # what it logged last may wait: sending it closes the run, too
    assert main(["send", str(folder)]) == 0
    capsys.readouterr()
    client = store.open_client(mlflow_uri)
    from pipeline.tracking.reaper import close_dead_runs

    close_dead_runs(client, run.info.experiment_id)
    run = only_run(mlflow_uri)
    assert run.info.status == "FAILED"
    words_of = run.data.tags[endings.FAILURE_TAG]
    assert "SIGKILL or power" in words_of
    assert "memory at" in words_of
    assert json.loads(run.data.tags[vitals.HEARTBEAT_TAG])["process_mb"] > 100
    seen = epochs_of(mlflow_uri, run.info.run_id)
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) >= 2


@pytest.mark.slow
def test_a_killed_worker_fails_the_run_and_both_go_on(dataset, mlflow_uri, tmp_path):
    command = [*TWO, "-m", "services.cli.main", *words(dataset, "learning.epochs=6")]
    with training(command, mlflow_uri, tmp_path, state_at(tmp_path, 2, 0)) as child:
        workers = [
            one
            for one in psutil.Process(child.pid).children(recursive=True)
            if "services.cli.main" in one.cmdline() and one.environ().get("RANK") == "1"
        ]
        workers[0].send_signal(signal.SIGKILL)
        assert child.wait(120) != 0
    said = (tmp_path / "output.txt").read_text()
    run = only_run(mlflow_uri)
    assert run.info.status in ("FAILED", "KILLED")
    # torchrun may end the first process before it has written why
    told = f"{said} {run.data.tags[endings.FAILURE_TAG]}"
    assert run.info.status == "KILLED" or "another of the 2 processes" in told
    assert endings.FAILURE_TAG in run.data.tags
    go_on = ["train", str(dataset), "--resume", run.info.run_id]
    done = subprocess.run(
        [*TWO, "-m", "services.cli.main", *go_on],
        cwd=tmp_path,
        env=environment(mlflow_uri),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert only_run(mlflow_uri).info.status == "FINISHED"
    assert epochs_of(mlflow_uri, run.info.run_id) == list(range(1, 7))
