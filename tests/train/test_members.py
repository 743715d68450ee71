"""Several networks of one plan: trained one after another, stopped and gone on with, exported as one."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from data_schemas.errors import TrainingError
from data_schemas.plan import Beside, Learning, NetworkPlan, Plan
from pipeline.model.decision import classes_of
from pipeline.model.package import open_package
from pipeline.model.runtime import Runtime
from pipeline.tracking import store
from pipeline.tracking.finding import download
from pipeline.train import learning, networks, weights
from pipeline.train import run as training
from pipeline.train import state as states
from pipeline.train.ensemble import answering
from pipeline.train.look.subject import put_together
from pipeline.train.plan import room
from pipeline.train.task import prepare
from pipeline.train.world import World, open_world

PLAN = Plan(
    network=NetworkPlan(backbone="convnet", members=2, views="mirror", size=24, dropout=0.1),
    learning=Learning(epochs=2, batch=16, rate=3e-3, checkpoint_minutes=1e-5),
    seed=4,
    threads=1,
)


def graded(memory_set, **more):
    made = memory_set(kinds={"g": 4}, n=120, **more)
    scale = made.info.labels[0].model_copy(update={"kind": "ordinal"})
    made.info = made.info.model_copy(update={"labels": (scale,)})
    return made


def test_members_views_size_and_grades_go_into_one_package(memory_set, mlflow_uri, tmp_path):
    """All of it at once, from the data set to the served graph's answer."""
    dataset, said = graded(memory_set), []
    place = training.Place(mlflow_uri, "tests", "tiny", Path("states").absolute())
    world = open_world("cpu", 1, 0)
    trained = training.train(dataset, PLAN, place, world, lambda *_: None, said.append)
    client = store.open_client(mlflow_uri)
    kept = client.get_run(trained.run_id)
    assert kept.info.status == "FINISHED"
    # epochs of the second network come after those of the first
    history = client.get_metric_history(trained.run_id, "tune/kappa")
    assert [entry.step for entry in history] == [1, 2, 3, 4]
    assert any(line.startswith("epoch 4/4") for line in said)
    package = open_package(download(mlflow_uri, trained.run_id, "package", tmp_path))
    assert any("the mean of 2 networks, seeds 4 to 5" in words for words in package.card.notes)
    (output,) = package.card.outputs
    assert (output.link, output.columns) == ("cumulative", (0, 1, 2))
    assert package.card.evidence_stride == 5  # 24 px in 3 cells, of 16 stored px
    rows = dataset.indices("tune")
    logits = Runtime(package).run(dataset.pixels(rows)).logits
    assert logits.shape == (len(rows), 3)
    # the figure of the run is that of the graph that answers
    right = (classes_of(output, logits) == dataset.labels("g")[rows]).mean()
    assert kept.data.metrics["best/accuracy"] == pytest.approx(right)
    mirrored = Runtime(package).run(dataset.pixels(rows)[:, :, ::-1].copy()).logits
    assert np.abs(mirrored - logits).max() < 1e-4
    assert not Path("states").exists() or not list(Path("states").iterdir())
    # its first network's backbone starts another training
    again = networks.build(NetworkPlan(backbone="convnet"), 1, 16)
    file = download(mlflow_uri, trained.run_id, "package/model.safetensors", tmp_path / "w")
    assert "weights file" in weights.load(again, NetworkPlan(backbone="convnet", weights=str(file)))


def digest(learned):
    values = learned.network.state_dict().values()
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in values)).hexdigest()


def carried_out(dataset, plan, state=None, track=lambda *_: None):
    world = open_world("cpu", 1, plan.seed)
    return learning.train_network(prepare(dataset, plan), world, track, state)


@pytest.mark.parametrize("place", [(2, 1), (3, 2), (4, None)])
def test_a_training_of_several_networks_goes_on_bit_for_bit(memory_set, broken_off, place):
    """Broken off in the first network, in the second, and after the very last step."""
    dataset, said, more = graded(memory_set), [], []
    begun = broken_off(dataset, PLAN, carried_out, place)
    with states.reopen(Path("states"), begun, dataset.info, said.append) as state:
        resumed = carried_out(dataset, PLAN, state, lambda epoch, *_: more.append(epoch))
        assert state.spent_s > 0
    assert min(more) >= place[0]  # no network learns twice
    whole = carried_out(dataset, PLAN)
    assert digest(resumed) == digest(whole)
    assert resumed.fitted.best == whole.fitted.best
    assert resumed.fitted.epochs == 4
    first, second = resumed.fitted.kept  # places in the history of both
    assert 1 <= first <= 2 < second <= 4
    assert said[0].startswith("network 1: goes on in epoch")


TWO_KINDS = PLAN.model_copy(
    update={
        "beside": Beside(backbone="resnet18_small", size=24, stride=8, epochs=1, batch=32),
    }
)
"""24 px are 3 cells of both, at a stride of 8."""


def test_networks_of_two_kinds_answer_in_one_package(memory_set, mlflow_uri, tmp_path):
    """The mean of each kind counts the same, in logits and in evidence; told as such everywhere."""
    dataset, said, heard = graded(memory_set), [], []
    place = training.Place(mlflow_uri, "tests", "", Path("states").absolute())
    world = open_world("cpu", 1, 0)

    def progress(done, total, note):
        heard.append((done, total))

    trained = training.train(dataset, TWO_KINDS, place, world, progress, said.append)
    dones, totals = zip(*heard, strict=True)
    assert list(dones) == sorted(dones)  # one count through networks of different batches
    assert (dones[-1], len(set(totals))) == (totals[-1], 1)
    assert any(line.startswith("epoch 5/5") for line in said)
    kept = store.open_client(mlflow_uri).get_run(trained.run_id)
    assert kept.info.run_name == "g convnet+resnet18_small seed 4"
    folder = download(mlflow_uri, trained.run_id, "package", tmp_path)
    package = open_package(folder)
    assert package.card.backbone == "convnet+resnet18_small"
    notes = " ".join(package.card.notes)
    assert "each counting the same: 2 of convnet and 1 of resnet18_small, seeds 4 to 6" in notes
    rows = dataset.indices("tune")
    ran = Runtime(package).run(dataset.pixels(rows))
    apart = ran.logits - (ran.evidence.mean((2, 3)) + Runtime(package).bias)
    assert np.abs(apart).max() < 1e-4
    subject = put_together(
        package, download(mlflow_uri, trained.run_id, "config/plan.yaml", tmp_path)
    )
    assert (subject.members, subject.views) == (3, "mirror")
    assert subject.network.head.in_channels == 128


def test_what_a_run_was_begun_with_names_the_threads_of_both_kinds(memory_set):
    beside = TWO_KINDS.beside.model_copy(update={"threads": 3})
    plan = TWO_KINDS.model_copy(update={"beside": beside})
    info = memory_set().info
    assert states.begun_with("r", plan, info, World()).threads == 3
    assert states.begun_with("r", PLAN, info, World()).threads == 1


def test_each_kind_counts_the_same():
    members = [networks.build(PLAN.network, 2, 16).eval() for _ in range(3)]
    pixels = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    with torch.no_grad():
        alone = [member(pixels) for member in members]
        together = answering(members, "one", (2, 1))(pixels)
    for k in (0, 1):  # logits and evidence
        wanted = (alone[0][k] + alone[1][k]) / 4 + alone[2][k] / 2
        torch.testing.assert_close(together[k], wanted)
    torch.testing.assert_close(together[2], torch.cat([one[2] for one in alone], 1))


def test_maps_that_do_not_match_are_refused_before_anything_is_learned(memory_set):
    beside = TWO_KINDS.beside.model_copy(update={"size": 48})
    plan = TWO_KINDS.model_copy(update={"beside": beside})
    heard = []
    with pytest.raises(TrainingError, match=r"convnet 3 x 3, resnet18_small 6 x 6") as refused:
        carried_out(memory_set(), plan, None, heard.append)
    assert refused.value.where == "beside.size"
    assert "beside.size=24" in refused.value.mend
    assert heard == []


def test_want_of_memory_names_the_batch_of_its_kind(memory_set, monkeypatch):
    dataset, learn = memory_set(), learning.learn

    def starved(network, task, *rest):
        if task.plan.network.backbone == "resnet18_small":
            raise MemoryError
        return learn(network, task, *rest)

    monkeypatch.setattr(learning, "learn", starved)
    with pytest.raises(TrainingError, match="batch 32 did not fit into memory: try 16") as found:
        carried_out(dataset, TWO_KINDS)
    assert found.value.where == "beside.batch"
    assert found.value.mend.startswith("--set beside.batch=16")
    # and before the start, where it is plain to see
    many = TWO_KINDS.model_copy(
        update={"beside": TWO_KINDS.beside.model_copy(update={"batch": 65_536})}
    )
    monkeypatch.setattr(room, "memory_for", lambda _: 8 * 2**30)
    with pytest.raises(TrainingError, match="batch 65536 needs") as found:
        room.refuse_without_room(many, dataset, World(), 1)
    assert found.value.where == "beside.batch"
    assert found.value.mend.startswith("try beside.batch ")
    room.refuse_without_room(TWO_KINDS, dataset, World(), 1)


@pytest.mark.parametrize(
    ("change", "where", "says"),
    [
        ({"backbone": "resnet0"}, "beside.backbone", "no backbone is called `resnet0`"),
        ({"size": 8}, "beside.size", "the graph enlarges"),
        ({"weights": "w.bin"}, "beside.weights", "is not a .safetensors file"),
        ({"rate": 1e30}, "", "after epoch 1 the network's answers are no longer finite"),
    ],
)
def test_errors_of_the_second_kind_name_its_own_settings(memory_set, change, where, says):
    beside = TWO_KINDS.beside.model_copy(update=change)
    plan = TWO_KINDS.model_copy(update={"beside": beside})
    with pytest.raises(TrainingError, match=says) as found:
        carried_out(memory_set(), plan)
    assert (found.value.where or "") == where
    if not where:
        # accumulate and precision are the whole plan's
        assert found.value.mend.startswith(
            "lower beside.rate, lengthen beside.warmup, or use learning.precision"
        )


def test_the_second_kind_goes_on_bit_for_bit(memory_set, broken_off):
    beside = TWO_KINDS.beside.model_copy(update={"epochs": 2})
    plan = TWO_KINDS.model_copy(update={"beside": beside})
    dataset, more = graded(memory_set), []
    begun = broken_off(dataset, plan, carried_out, (6, 1))
    with states.reopen(Path("states"), begun, dataset.info, lambda _: None) as state:
        resumed = carried_out(dataset, plan, state, lambda epoch, *_: more.append(epoch))
    assert min(more) == 6
    assert digest(resumed) == digest(carried_out(dataset, plan))


def test_members_differ_only_in_their_seed(memory_set):
    dataset = memory_set()
    plan = PLAN.model_copy(update={"seed": 0})
    first, second = carried_out(dataset, plan).network.members
    lone = NetworkPlan(**{**plan.network.model_dump(), "members": 1, "views": "one"})
    alone = carried_out(dataset, plan.model_copy(update={"network": lone, "seed": 1})).network
    assert isinstance(alone, networks.EvidenceNetwork)
    same = zip(second.state_dict().values(), alone.state_dict().values(), strict=True)
    assert all((one == other).all() for one, other in same)
    assert any(
        (one != other).any()
        for one, other in zip(first.parameters(), second.parameters(), strict=True)
    )
