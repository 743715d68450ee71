"""A whole training run: what it leaves in MLflow, what its package holds, that it repeats."""

import hashlib
import json

import numpy as np
import pytest
import torch

from data_schemas.errors import TrainingError
from data_schemas.plan import Augmentation, Learning, NetworkPlan, OperatingRule, Plan
from pipeline.model.package import open_package
from pipeline.model.runtime import Runtime
from pipeline.tracking import store
from pipeline.tracking.finding import download
from pipeline.train import calibrating, learning
from pipeline.train import run as training
from pipeline.train.task import prepare
from pipeline.train.world import World, open_world

SHORT = Learning(epochs=2, batch=16, rate=3e-3)
TINY = Plan(network=NetworkPlan(backbone="convnet"), learning=SHORT, threads=1)


def train(dataset, plan, uri, world=None, say=lambda _: None):
    world = world or open_world(plan.device, plan.threads, plan.seed)
    place = training.Place(uri, "tests", "tiny")
    return training.train(dataset, plan, place, world, lambda *_: None, say)


def test_a_run_leaves_what_a_reviewer_needs(memory_set, mlflow_uri, tmp_path):
    said = []
    dataset = memory_set(n=100)
    trained = train(dataset, TINY, mlflow_uri, say=said.append)
    assert trained.tune_auc > 0.9
    client = store.open_client(mlflow_uri)
    kept = client.get_run(trained.run_id)
    assert kept.info.status == "FINISHED"
    metrics = kept.data.metrics
    assert len(metrics) >= 20
    wanted = "train/loss train/lr train/grad_norm tune/loss tune/auc tune/accuracy tune/brier time/epoch_s"
    wanted += " time/images_per_s time/loader_stall_pct mem/rss_mb calibration/auc calibration/temperature"
    assert set(wanted.split()) <= set(metrics)
    steps = [entry.step for entry in client.get_metric_history(trained.run_id, "tune/auc")]
    assert steps == [1, 2]
    figures = {entry.path for entry in client.list_artifacts(trained.run_id, "figures")}
    assert len(figures) >= 5
    assert {i.tags[0].value for i in kept.inputs.dataset_inputs} >= {"train", "tune", "calibration"}
    assert kept.data.params["network.backbone"] == "convnet"
    assert kept.data.tags["hilum.dataset_sha256"] == dataset.info.content_sha256
    assert kept.data.tags["hilum.plan_sha256"] == TINY.digest()
    note = kept.data.tags["mlflow.note.content"]
    assert "Not judged on the test split yet. Tune AUC" in note
    assert "calibration split" in note
    assert sum(line.startswith("epoch") for line in said) == 2

    folder = download(mlflow_uri, trained.run_id, "package", tmp_path)
    package = open_package(folder)
    assert package.card.run_id == trained.run_id
    assert package.card.backbone == "convnet"
    assert package.card.operating_points == trained.points
    assert package.card.parameters > 0
    logits = Runtime(package).run(dataset.pixels(dataset.indices("test"))).logits
    truth = dataset.labels("bright")[dataset.indices("test")]
    assert logits[truth == 1].min() > logits[truth == 0].max()
    # no picture of the data travels with the model
    with np.load(folder / "verification.npz") as stored:
        kept_images = stored["images"].astype(int)
    for image in kept_images:
        assert np.abs(dataset.images - image).mean((1, 2, 3)).min() > 5


def learned(dataset, plan):
    """The digest of the weights after a fit, without a run around it."""
    world = open_world(plan.device, plan.threads, plan.seed)
    task = prepare(dataset, plan)
    network, _ = learning.build_network(task, world)
    learning.learn(network, task, world, lambda *_: None)
    parts = [value.numpy().tobytes() for value in network.state_dict().values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_same_plan_gives_the_same_weights(memory_set, enabled):
    plan = TINY.model_copy(
        update={
            "augmentation": Augmentation(enabled=enabled, noise=0.02),
            "learning": SHORT.model_copy(update={"balance": "sampler", "average": 0.9}),
            "network": NetworkPlan(backbone="convnet", dropout=0.1),
        }
    )
    digest = learned(memory_set(), plan)
    assert learned(memory_set(), plan) == digest
    assert learned(memory_set(), plan.model_copy(update={"seed": 1})) != digest
    assert learned(memory_set(seed=1), plan) != digest


@pytest.mark.slow
def test_several_labels_in_half_precision(memory_set, mlflow_uri, tmp_path):
    plan = TINY.model_copy(
        update={
            "labels": ("a", "b"),
            "learning": SHORT.model_copy(update={"precision": "bf16", "balance": "loss"}),
            "operating": OperatingRule(rule="two_thresholds", target=0.6, target_specificity=0.6),
        }
    )
    trained = train(memory_set(kinds={"a": 2, "b": 2}), plan, mlflow_uri)
    verdicts = [point.label for point in trained.points if point.name == "default"]
    assert verdicts == ["a", "b"]
    metrics = store.open_client(mlflow_uri).get_run(trained.run_id).data.metrics
    assert {"tune/auc", "calibration/threshold"} <= set(metrics)
    assert not [name for name in metrics if name.endswith(("_a", "_b"))]
    table = json.loads(
        download(
            mlflow_uri, trained.run_id, "tables/calibration_by_label.json", tmp_path
        ).read_text()
    )
    assert [row[0] for row in table["data"]] == ["a", "b"]
    at = table["columns"].index("threshold")
    assert [row[at] for row in table["data"]] == [point.high for point in trained.points]
    assert metrics["calibration/threshold"] == table["data"][0][at]
    epochs = json.loads(
        download(mlflow_uri, trained.run_id, "tables/tune_by_label.json", tmp_path).read_text()
    )
    assert [row[:2] for row in epochs["data"]] == [[1, "a"], [1, "b"], [2, "a"], [2, "b"]]


def calibrated(dataset, plan=TINY):
    task = prepare(dataset, plan)
    network, _ = learning.build_network(task, World())
    return task, calibrating.calibrate(network.eval(), task, World())


def test_a_class_missing_from_every_held_out_split_is_reported(memory_set):
    dataset = memory_set(kinds={"grade": 4})
    grades = dataset.truths["grade"]
    grades[(dataset.split != "train") & (grades == 3)] = 2
    task, found = calibrated(dataset)
    assert "the tune split holds no image of `grade` = c3" in task.notes
    assert found.outputs[0].temperature > 0
    assert found.points[0].positives > 0


def test_a_calibration_split_of_one_class_is_reported_not_fatal(memory_set):
    dataset = memory_set()
    dataset.truths["bright"][dataset.indices("calibration")] = 0
    _, found = calibrated(dataset)
    assert found.outputs[0].temperature == 1.0
    assert found.points[0].positives == 0
    assert len(found.notes) == 4


def test_without_a_calibration_split_the_tune_split_serves(memory_set):
    dataset = memory_set()
    dataset.split[dataset.split == "calibration"] = "train"
    _, found = calibrated(dataset)
    assert found.split == "tune"
    assert "no calibration split: calibrated on the tune split" in found.notes


def test_calibration_can_be_left_out(memory_set):
    _, found = calibrated(memory_set(), TINY.model_copy(update={"calibration": "none"}))
    assert found.outputs[0].temperature == 1.0


def test_a_rate_that_explodes_fails_the_run(memory_set, mlflow_uri):
    wild = TINY.model_copy(
        update={"learning": SHORT.model_copy(update={"rate": 1e30, "gradient_norm": 1e30})}
    )
    with pytest.raises(TrainingError, match="epoch"):
        train(memory_set(), wild, mlflow_uri)
    client = store.open_client(mlflow_uri)
    experiment = client.get_experiment_by_name("tests")
    (failed,) = client.search_runs([experiment.experiment_id])
    assert failed.info.status == "FAILED"
    assert [e.path for e in client.list_artifacts(failed.info.run_id, "errors")] == [
        "errors/batch.json",
        "errors/traceback.txt",
    ]


def test_an_empty_split_is_refused_before_a_run_begins(memory_set, mlflow_uri):
    dataset = memory_set()
    dataset.split[dataset.split == "tune"] = "test"
    with pytest.raises(TrainingError, match="tune split holds no image"):
        train(dataset, TINY, mlflow_uri)
    assert store.open_client(mlflow_uri).get_experiment_by_name("tests") is None


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(TrainingError, match="not a device"):
        open_world("quantum", 1, 0)
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match="0 CUDA devices"):
            open_world("cuda", 1, 0)


def test_one_process_leaves_gradients_alone():
    network = torch.nn.Linear(2, 1)
    network(torch.ones(1, 2)).sum().backward()
    before = network.weight.grad.clone()
    World().average_gradients(network)
    assert torch.equal(network.weight.grad, before)
