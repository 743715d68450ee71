"""Labels that are not known stay out of loss, balance, metrics and calibration."""

import numpy as np
import pytest
import torch

from data_schemas.errors import TrainingError
from data_schemas.plan import Learning, NetworkPlan, Plan
from pipeline.train import calibrating, labels, learning
from pipeline.train.judge import tune_metrics
from pipeline.train.task import prepare
from pipeline.train.world import World

TINY = Plan(network=NetworkPlan(backbone="convnet"), learning=Learning(epochs=1, batch=16))
CPU = torch.device("cpu")


def test_a_single_label_leaves_its_images_out(memory_set):
    dataset = memory_set()
    missing = dataset.indices("train")[:7]
    dataset.truths["bright"][missing] = -1
    task = prepare(dataset, TINY)
    assert not set(missing) & set(task.rows["train"])
    assert len(task.rows["train"]) == len(dataset.indices("train")) - 7
    assert "`bright` is not known of some images, left out: train 7" in task.notes


def test_of_several_labels_one_is_enough(memory_set):
    dataset = memory_set(kinds={"a": 2, "b": 2})
    train = dataset.indices("train")
    dataset.truths["a"][train[:5]] = -1
    dataset.truths["b"][train[3:8]] = -1
    task = prepare(dataset, TINY.model_copy(update={"labels": ("a", "b")}))
    assert set(train) - set(task.rows["train"]) == set(train[3:5])


def test_a_split_without_any_known_label_is_refused(memory_set):
    dataset = memory_set()
    dataset.truths["bright"][dataset.indices("tune")] = -1
    with pytest.raises(TrainingError, match="tune split holds no image whose label is known"):
        prepare(dataset, TINY)


@pytest.mark.parametrize("kinds", [{"a": 2, "b": 2}, {"g": 4}])
@pytest.mark.parametrize("how", ["none", "loss", "sampler"])
def test_the_loss_is_that_of_the_known_labels_alone(memory_set, kinds, how):
    head = labels.resolve_head(Plan(labels=tuple(kinds)), memory_set(kinds=kinds).info)
    generator = np.random.default_rng(0)
    targets = generator.integers(0, next(iter(kinds.values())), (40, len(kinds)))
    given = labels.balance(head, targets, how)
    objective = labels.Objective(head, given, 0.1, CPU)
    logits = torch.from_numpy(generator.normal(size=(40, head.columns))).float()
    whole = torch.from_numpy(targets)
    hidden = whole.clone()
    hidden[5:12, 0] = -1
    parts = [objective(logits[k : k + 1], whole[k : k + 1]) for k in range(40)]
    if len(kinds) == 1:
        expected = torch.stack([p for k, p in enumerate(parts) if not 5 <= k < 12]).mean()
    else:  # a row with one label of two counts half
        first = [labels.Objective(head, given, 0.1, CPU)(logits[k : k + 1], torch.tensor([[-1, int(whole[k, 1])]])) for k in range(5, 12)]  # fmt: skip
        rest = [p * 2 for k, p in enumerate(parts) if not 5 <= k < 12]
        expected = (sum(rest) + sum(first)) / (2 * 33 + 7)
    assert objective(logits, hidden).item() == pytest.approx(expected.item(), rel=1e-5)
    # what stands in for a missing value is never looked at
    wild = logits.clone().requires_grad_()
    objective(wild, hidden).backward()
    assert (wild.grad[5:12, 0] == 0).all()
    nothing = objective(logits, torch.full_like(whole, -1))
    assert nothing.item() == 0


@pytest.mark.parametrize("how", ["none", "loss", "sampler"])
def test_the_balance_counts_known_labels_only(memory_set, how):
    head = labels.resolve_head(Plan(), memory_set().info)
    targets = np.array([[0]] * 30 + [[1]] * 10)
    more = np.concatenate([targets, np.full((20, 1), -1)])
    plain, masked = labels.balance(head, targets, how), labels.balance(head, more, how)
    assert masked.bias == pytest.approx(plain.bias)
    assert masked.weight == pytest.approx(plain.weight)
    assert masked.shift == pytest.approx(plain.shift)
    if how == "sampler":
        assert masked.chance.sum() == pytest.approx(1)
        assert masked.chance[30] / masked.chance[0] == pytest.approx(plain.chance[30] / plain.chance[0])  # fmt: skip


def test_metrics_and_calibration_use_known_labels_only(memory_set):
    dataset = memory_set(n=200, kinds={"a": 2, "b": 2})
    head = labels.resolve_head(Plan(labels=("a", "b")), dataset.info)
    generator = np.random.default_rng(2)
    logits, targets = generator.normal(size=(50, 2)), generator.integers(0, 2, (50, 2))
    hidden = targets.copy()
    hidden[20:, 0] = -1
    found = tune_metrics(head, logits, hidden)
    first = tune_metrics(head, logits[:20], targets[:20])
    assert found["tune/auc_a"] == first["tune/auc_a"]
    assert found["tune/auc_b"] == tune_metrics(head, logits, targets)["tune/auc_b"]
    hidden[:, 0] = -1
    assert np.isnan(tune_metrics(head, logits, hidden)["tune/auc_a"])
    dataset.truths["a"][dataset.indices("calibration")[::2]] = -1
    task = prepare(dataset, TINY.model_copy(update={"labels": ("a", "b")}))
    network, _ = learning.build_network(task, World())
    points = calibrating.calibrate(network.eval(), task, World()).points
    assert [point.images for point in points] == [20, 40]


def test_grades_are_trained_as_a_scale_or_as_classes(memory_set):
    info = memory_set(kinds={"grade": 4}).info
    ordinal = info.labels[0].model_copy(update={"kind": "ordinal"})
    graded = info.model_copy(update={"labels": (ordinal,)})
    scale = labels.resolve_head(Plan(), graded)
    assert (scale.kind, scale.columns) == ("ordinal", 3)
    classes = labels.resolve_head(Plan(learning=Learning(grades="classes")), graded)
    assert (classes.kind, classes.columns) == ("classes", 4)


def test_a_value_that_is_no_class_is_still_refused(memory_set):
    dataset = memory_set()
    dataset.truths["bright"][0] = -2
    with pytest.raises(TrainingError, match=r"holds -2\.\.1"):
        prepare(dataset, TINY)
