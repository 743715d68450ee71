"""A training that was killed goes on in the same run, to the same weights bit for bit."""

import contextlib
import errno
import hashlib
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
from data_schemas.plan import Augmentation, Learning, NetworkPlan, Plan
from pipeline.tracking import endings, store
from pipeline.train import learning
from pipeline.train import run as training
from pipeline.train import state as states
from pipeline.train.world import World, open_world
from services.cli.main import main

ROOT = Path(__file__).parents[2]
EPOCHS = 4
SETTINGS = [
    "network.backbone=convnet",
    "network.dropout=0.2",
    f"learning.epochs={EPOCHS}",
    "learning.batch=6",
    "learning.average=0.9",
    "learning.balance=sampler",
    "learning.checkpoint_minutes=0.00001",
    "augmentation.noise=0.02",
    "threads=1",
]
PLAN = Plan(
    network=NetworkPlan(backbone="convnet", dropout=0.2),
    learning=Learning(epochs=3, batch=8, rate=3e-3, average=0.9, checkpoint_minutes=1e-5),
    augmentation=Augmentation(noise=0.02),
    threads=1,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, drawn_dataset):
    """A data set folder with 51 training images."""
    return drawn_dataset(tmp_path_factory.mktemp("data"), (51, 24, 12), noise=150, bright=30)


def words(dataset, *more):
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    return ["train", str(dataset), "--config", os.devnull, *sets, *more]  # not a plan of its own


def answer(capsys):
    return json.loads(capsys.readouterr().out)


def kill_in_the_middle(command, uri, folder):
    """Start ``command``; SIGKILL it and its children once it is in the middle of an epoch."""
    env = {
        **os.environ,
        "MLFLOW_TRACKING_URI": uri,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    with (folder / "output.txt").open("w") as output:
        child = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output)
        end = time.monotonic() + 300
        while not _amid_an_epoch(folder):
            assert child.poll() is None, (folder / "output.txt").read_text()[-3000:]
            assert time.monotonic() < end, "it never came that far"
            time.sleep(0.002)
        # held first: between the look and the end it might begin another epoch
        family = [*psutil.Process(child.pid).children(recursive=True), psutil.Process(child.pid)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
    (state,) = folder.glob("store/.hilum/state/*")
    newest = max(state.glob("epoch-*"))
    assert "-step-0000000-" not in newest.name  # in the middle of an epoch, not between two
    assert newest.name < f"epoch-{EPOCHS:05d}-step-0000006"
    return state, newest


def _amid_an_epoch(folder):
    """Tell whether the newest checkpoint is of the third step or later of the second epoch or later."""
    names = [one.name for one in folder.glob("store/.hilum/state/*/epoch-*")]
    newest = max(names, default="")
    steps = ("-step-0000003-", "-step-0000004-")
    return newest >= "epoch-00002-step-0000003" and any(step in newest for step in steps)


def histories(uri, run_id):
    """Every epoch metric but the clock's: name -> [(step, value)] as MLflow holds them."""
    client = store.open_client(uri)
    names = [name for name in client.get_run(run_id).data.metrics if name.startswith(("tr", "tu"))]
    assert len(names) > 6
    return {
        name: [(entry.step, entry.value) for entry in client.get_metric_history(run_id, name)]
        for name in names
    }


def check_it_went_on(uri, run_id, unbroken_id):
    client = store.open_client(uri)
    kept = client.get_run(run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.tags["hilum.resumed"] == "1"
    assert len(client.search_runs([kept.info.experiment_id])) == 2
    assert histories(uri, run_id) == histories(uri, unbroken_id)
    for name in ("data/train_images", "best/epoch"):
        assert len(client.get_metric_history(run_id, name)) == 1


def test_killed_in_the_middle_of_an_epoch_it_ends_in_the_same_weights(
    dataset, mlflow_uri, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    assert main(words(dataset, "--json")) == 0
    unbroken = answer(capsys)
    command = [sys.executable, "-m", "services.cli.main", *words(dataset)]
    state, newest = kill_in_the_middle(command, mlflow_uri, tmp_path)
    # a power cut would also tear the file that was written last: the one before it serves
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert main(["train", str(dataset), "--resume", "last", "--json"]) == 0
    printed = capsys.readouterr()
    resumed = json.loads(printed.out)
    assert resumed["run_id"] == state.name
    assert "is torn" in printed.err
    assert "goes on in epoch" in printed.err
    assert "epoch 1/" not in printed.err
    assert resumed["weights_sha256"] == unbroken["weights_sha256"]
    assert resumed["operating_points"] == unbroken["operating_points"]
    check_it_went_on(mlflow_uri, state.name, unbroken["run_id"])
    assert not state.exists()
    assert main(["train", str(dataset), "--resume", state.name]) == 1
    assert "there is nothing to go on with" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_that_were_killed_end_in_the_same_weights(
    dataset, mlflow_uri, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shell = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    shell += ["-m", "services.cli.main"]

    def finish(command):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    state, _ = kill_in_the_middle([*shell, *words(dataset)], mlflow_uri, tmp_path)
    # one process can't go on with what two began
    done = main(["train", str(dataset), "--resume", state.name])
    assert done == 1
    resumed = finish([*shell, "train", str(dataset), "--resume", state.name, "--json"])
    unbroken = finish([*shell, *words(dataset, "--json")])
    assert resumed["weights_sha256"] == unbroken["weights_sha256"]
    check_it_went_on(mlflow_uri, state.name, unbroken["run_id"])


def train(dataset, uri, plan=PLAN, progress=lambda *_: None, say=lambda _: None, **more):
    """A whole training, with its run and its package."""
    world = open_world(plan.device, plan.threads, plan.seed)
    place = training.Place(uri, "tests", "tiny", Path("states").absolute(), **more)
    return training.train(dataset, plan, place, world, progress, say)


def learned(dataset, state=None, plan=PLAN, track=lambda *_: None):
    """The weights after a fit, without a run around it."""
    world = open_world(plan.device, plan.threads, plan.seed)
    task = training.prepare(dataset, plan)
    network, _ = learning.build_network(task, world)
    learning.learn(network, task, world, track, state)
    return hashlib.sha256(
        b"".join(value.numpy().tobytes() for value in network.state_dict().values())
    ).hexdigest()


def begun(dataset, plan=PLAN, run_id="r"):
    return states.begun_with(run_id, plan, dataset.info, open_world("cpu", 1, 0))


def reopened(dataset, plan=PLAN, run_id="r", say=lambda _: None):
    return states.reopen(Path("states"), begun(dataset, plan, run_id), dataset.info, say)


def signalled(number, at):
    """A listener to progress that sends this process a signal at one step."""

    def progress(done, _total, _note):
        if done == at:
            os.kill(os.getpid(), number)

    return progress


def stopped(dataset, uri, plan=PLAN, number=signal.SIGTERM, said=None):
    """Train until a signal in the second step of the second epoch; return the stopped run's id."""
    say = (said if said is not None else []).append
    with pytest.raises((endings.Terminated, KeyboardInterrupt)):
        # 40 images in batches of 8: five steps an epoch
        train(dataset, uri, plan, signalled(number, 7), say)
    (state,) = Path("states").iterdir()
    return state.name


@pytest.mark.own_process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_first_and_says_how_to_go_on(memory_set, mlflow_uri, number):
    said = []
    rare = PLAN.learning.model_copy(update={"checkpoint_minutes": 60.0})
    plan = PLAN.model_copy(update={"learning": rare})  # none is due by the clock
    run_id = stopped(memory_set(), mlflow_uri, plan, number, said)
    assert f"go on with: hilum train tiny --resume {run_id}" in said[-1]
    assert sorted(file.name[:24] for file in Path("states", run_id).glob("epoch-*")) == [
        "epoch-00002-step-0000000",
        "epoch-00002-step-0000002",
    ]
    assert store.open_client(mlflow_uri).get_run(run_id).info.status == "KILLED"
    dataset, said = memory_set(), []
    with reopened(dataset, plan, run_id, said.append) as state:
        assert learned(dataset, state, plan) == learned(dataset, None, plan)
    assert said == ["goes on in epoch 2 after step 2"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.own_process
def test_a_stop_while_tuning_images_are_judged_does_not_wait(memory_set, here, monkeypatch):
    dataset = memory_set(n=100)  # 20 tuning images, judged in two batches
    pixels, asked = dataset.pixels, []

    def signalling(indices):
        if np.isin(indices, dataset.indices("tune")).all():
            asked.append(len(indices))
            os.kill(os.getpid(), signal.SIGTERM)
        return pixels(indices)

    with states.begin(Path("states"), begun(dataset), lambda _: None) as state:
        with monkeypatch.context() as patched:
            patched.setattr(dataset, "pixels", signalling)
            with pytest.raises(endings.Terminated):
                learned(dataset, state)
        assert asked == [16]
        assert state.checkpoints()[-1].name.startswith("epoch-00001-step-0000006")
        assert learned(dataset, state) == learned(dataset)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_whatever_breaks_it_off_it_goes_on_bit_for_bit(memory_set, here, precision):
    # bf16 also lays the weights out in another order, which files don't keep
    settings = {"precision": precision, "balance": "loss", "average": 0.0}
    plan = PLAN.model_copy(update={"learning": PLAN.learning.model_copy(update=settings)})
    dataset = memory_set()

    def broken(epoch, step, _metrics):
        if (epoch, step) == (2, 4):
            raise ZeroDivisionError

    with states.begin(Path("states"), begun(dataset, plan), lambda _: None):
        Path("states", "r", ".epoch-00002-step-0000004.abc.part").write_bytes(b"half")
    with reopened(dataset, plan) as state:
        assert list(state.path.glob(".*.part")) == []
        with pytest.raises(ZeroDivisionError):
            learned(dataset, state, plan, broken)
        assert state.checkpoints()[-1].name.startswith("epoch-00002-step-0000003")
        assert learned(dataset, state, plan) == learned(dataset, None, plan)


def test_after_the_last_epoch_there_is_nothing_left_to_learn(memory_set, here):
    dataset, heard = memory_set(), []
    with states.begin(Path("states"), begun(dataset), lambda _: None) as state:
        first = learned(dataset, state)
        assert learned(dataset, state, track=lambda *words: heard.append(words)) == first
    assert heard == []


@pytest.mark.own_process
def test_without_a_checkpoint_it_begins_again(memory_set, mlflow_uri):
    run_id = stopped(memory_set(), mlflow_uri)
    for file in Path("states", run_id).glob("epoch-*"):
        file.unlink()
    dataset, heard = memory_set(), []
    with reopened(dataset, run_id=run_id) as state:
        again = learned(dataset, state, track=lambda *words: heard.append(words))
    assert again == learned(dataset)
    assert heard[0] == (1, 1, None)


def test_two_checkpoints_stay_and_a_torn_one_is_passed_over(memory_set, here):
    dataset, said = memory_set(), []
    with states.begin(Path("states"), begun(dataset), said.append) as state:
        learned(dataset, state)
        before, last = state.checkpoints()
        assert state.newest() == last.read_bytes()
        whole = bytearray(last.read_bytes())
        whole[len(whole) // 2] ^= 1  # one bit
        last.write_bytes(whole)
        assert state.newest() == before.read_bytes()
        before.write_bytes(b"")
        assert state.newest() == b""
    assert said[0] == f"note: {last.name} is torn; the one before it is used"


@pytest.mark.own_process
def test_what_has_changed_is_refused_by_name_and_the_run_left_alone(memory_set, mlflow_uri):
    run_id = stopped(memory_set(), mlflow_uri)
    other = PLAN.model_copy(
        update={"seed": 1, "learning": PLAN.learning.model_copy(update={"rate": 1e-3})}
    )
    with pytest.raises(TrainingError, match=r"learning.rate: 0.003 then, 0.001 now; seed: 0 then"):
        train(memory_set(), mlflow_uri, other, resume=run_id)
    with pytest.raises(TrainingError, match="another data set: `tiny`"):
        train(memory_set(seed=5), mlflow_uri, resume=run_id)
    contract = memory_set()
    contract.info = contract.info.model_copy(update={"contract_sha256": "0" * 64})
    with pytest.raises(TrainingError, match="another contract"):
        train(contract, mlflow_uri, resume=run_id)
    first = states.read_begun(Path("states", run_id))
    with pytest.raises(TrainingError, match="begun by 1 processes, 2 are here") as refused:
        states.refuse_changes(first, PLAN, memory_set().info, 2)
    assert "without torchrun" in refused.value.mend
    with pytest.raises(TrainingError, match="no state of this run") as refused:
        train(memory_set(), mlflow_uri, resume="0" * 32)
    assert "--state" in refused.value.mend
    assert store.open_client(mlflow_uri).get_run(run_id).info.status == "KILLED"


def test_a_checkpoint_of_another_run_is_refused(memory_set, here):
    dataset = memory_set()
    with states.begin(Path("states"), begun(dataset), lambda _: None) as state:
        learned(dataset, state)
    begun(dataset, run_id="another").write_json(Path("states", "r", states.BEGUN))
    with (
        reopened(dataset) as state,
        pytest.raises(TrainingError, match=r"is of another run than run\.json"),
    ):
        state.newest()


@pytest.mark.own_process
def test_a_run_that_is_being_trained_is_left_alone(memory_set, mlflow_uri):
    run_id = stopped(memory_set(), mlflow_uri)
    with (
        reopened(memory_set(), run_id=run_id),
        pytest.raises(TrainingError, match="being trained by another process"),
    ):
        train(memory_set(), mlflow_uri, resume=run_id)
    assert store.open_client(mlflow_uri).get_run(run_id).info.status == "KILLED"


def test_other_threads_are_said_not_refused(memory_set, here):
    dataset, said = memory_set(), []
    other = begun(dataset).model_copy(update={"threads": 7})
    with states.begin(Path("states"), other, lambda _: None):
        pass
    with reopened(dataset, say=said.append):
        pass
    assert "not be bit-equal" in said[0]
    assert "threads 7 then, 1 now" in said[0]


def test_before_an_update_that_is_not_finite_it_fails_and_keeps_the_last_good_state(
    memory_set, mlflow_uri, monkeypatch
):
    dataset = memory_set()
    task = training.prepare(dataset, PLAN)
    network, _ = learning.build_network(task, World())

    def poison(done, _total, _note):
        if done == 6:
            with torch.no_grad():
                network.bias.fill_(float("nan"))

    with monkeypatch.context() as patched:
        patched.setattr(learning, "build_network", lambda *_: (network, ""))
        with pytest.raises(TrainingError, match="epoch 2, step 2") as failed:
            train(dataset, mlflow_uri, progress=poison)
    assert "learning.rate" in failed.value.mend
    (folder,) = Path("states").iterdir()
    client = store.open_client(mlflow_uri)
    assert client.get_run(folder.name).info.status == "FAILED"
    faults = [entry.path for entry in client.list_artifacts(folder.name, "errors")]
    assert faults == ["errors/batch.json", "errors/traceback.txt"]
    # here a hand, not the plan, spoilt the weights: the state before that is good
    (spoilt,) = folder.glob("epoch-00002-step-0000001-*")
    spoilt.unlink()
    with reopened(dataset, run_id=folder.name) as state:
        assert learned(dataset, state) == learned(dataset)


def test_a_full_disk_is_said_and_training_goes_on(memory_set, here, monkeypatch):
    dataset, said = memory_set(), []

    def full(_path, _data):
        raise OSError(errno.ENOSPC, "a message that may hold anything")

    with states.begin(Path("states"), begun(dataset), said.append) as state:
        monkeypatch.setattr(states, "write_bytes", full)
        assert learned(dataset, state) == learned(dataset)
    assert "No space left on device" in said[0]
    assert "training goes on" in said[0]


def test_there_is_nothing_to_go_on_with(dataset, mlflow_uri, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    assert main(["train", str(dataset), "--resume", "last"]) == 1
    assert "holds no training run that was stopped" in capsys.readouterr().err
    assert main(["train", str(dataset), "--resume", "0123456789abcdef" * 2]) == 1
    assert "not found" in capsys.readouterr().err


SHARED = """
import sys, numpy as np, torch
from data_schemas.plan import Learning
from pipeline.train.batches import Order, TrainingBatches
from pipeline.train.loop import Training, fit
from pipeline.train.world import World, close_world, open_world
rank, size = int(sys.argv[1]), int(sys.argv[2])
world = open_world("cpu", 1, 0, rank=rank, size=size)

class Pixels:
    def pixels(self, indices):
        seen.extend(indices.tolist())
        return np.random.default_rng(3).integers(0, 255, (51, 4, 4, 3), np.uint8)[indices]

seen, heard = [], []
targets = (np.arange(51) % 2)[:, None].astype(np.int64)
batches = TrainingBatches(
    Pixels(), targets, Order(np.arange(51), 0), 51, lambda images, *_: images, world
)
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 1)).double()

def loss_of(net, batch):
    logits = net(batch.images.double() / 255)
    return torch.nn.functional.binary_cross_entropy_with_logits(
        logits, batch.targets.double()
    ) * batch.weight

training = Training(network, Learning(epochs=1, batch=51), batches.steps)
fit(training, batches, loss_of, lambda _: {"tune/loss": 1.0},
    lambda *words: heard.append(words[2]), world)
close_world(world)
np.savez(sys.argv[3], seen=seen, loss=heard[-1]["train/loss"], norm=heard[-1]["train/grad_norm"],
         weights=network[1].weight.detach().numpy())
"""


@pytest.mark.slow
def test_51_images_on_two_processes_count_as_51(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1"}
    env["MASTER_PORT"] = str(20000 + os.getpid() % 20000)

    def start(rank, size):
        file = tmp_path / f"{rank}-of-{size}.npz"
        words = [sys.executable, "-c", SHARED, str(rank), str(size), str(file)]
        return subprocess.Popen(words, env=env), file

    children = [start(0, 1), start(0, 2), start(1, 2)]
    assert [child.wait(timeout=600) for child, _ in children] == [0, 0, 0]
    one, first, second = (np.load(file) for _, file in children)
    assert sorted(one["seen"]) == list(range(51))
    assert (len(first["seen"]), len(second["seen"])) == (26, 25)
    assert sorted([*first["seen"], *second["seen"]]) == list(range(51))
    for name in ("loss", "norm", "weights"):
        np.testing.assert_allclose(first[name], one[name], rtol=1e-12)
        np.testing.assert_array_equal(first[name], second[name])


def test_a_batch_that_does_not_go_round_is_refused(memory_set):
    task = training.prepare(memory_set(), PLAN)
    with pytest.raises(TrainingError, match="without one") as refused:
        learning.learn(torch.nn.Linear(1, 1), task, World(0, 9), lambda *_: None)
    assert "9 or more" in refused.value.mend
