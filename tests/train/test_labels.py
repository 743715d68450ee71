"""From labels to logits: heads, and what countering imbalance does to probabilities (nothing)."""

import numpy as np
import pytest
import torch

from data_schemas.errors import TrainingError
from data_schemas.plan import Plan
from pipeline.train import labels
from pipeline.train.judge import tune_metrics


def test_several_binary_labels_are_one_column_each(memory_set):
    info = memory_set(kinds={"a": 2, "b": 2, "g": 4}).info
    head = labels.resolve_head(Plan(labels=("b", "a"), primary="a"), info)
    assert [(o.label, o.columns, o.positive_classes) for o in head.outputs] == [
        ("b", (0,), (1,)),
        ("a", (1,), (1,)),
    ]
    assert (head.kind, head.columns, head.primary, head.primary_index) == ("binary", 2, "a", 1)


def test_one_label_of_classes_is_a_softmax(memory_set):
    info = memory_set(kinds={"g": 4}).info
    head = labels.resolve_head(Plan(), info)
    assert head.outputs[0].columns == (0, 1, 2, 3)
    assert head.outputs[0].positive_classes == (1, 2, 3)
    chosen = labels.resolve_head(Plan(positive_classes=(3, 2)), info)
    assert chosen.outputs[0].positive_classes == (2, 3)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(), "has 3 labels"),
        (Plan(labels=("a", "g")), "don't go into one network"),
        (Plan(labels=("aa",)), "no label `aa`"),
        (Plan(labels=("a",), primary="b"), "not one of the labels that are trained"),
        (Plan(labels=("g",), positive_classes=(4,)), "positive classes"),
        (Plan(labels=("g",), positive_classes=(0, 1, 2, 3)), "positive classes"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_a_way_out(memory_set, plan, words):
    info = memory_set(kinds={"a": 2, "b": 2, "g": 4}).info
    with pytest.raises(TrainingError, match=words) as refused:
        labels.resolve_head(plan, info)
    assert refused.value.where in ("labels", "primary", "positive_classes")


def best_constant(head, targets, how):
    """The constant logits that minimise the loss, with images drawn as the balance says."""
    given = labels.balance(head, targets, how)
    generator = np.random.default_rng(0)
    n = len(targets)
    rows = np.arange(n) if given.chance is None else generator.choice(n, 40 * n, p=given.chance)
    objective = labels.Objective(head, given, 0.0, torch.device("cpu"))
    bias = torch.zeros(head.columns, requires_grad=True)
    drawn = torch.from_numpy(targets[rows])
    optimiser = torch.optim.LBFGS([bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = objective(bias.expand(len(drawn), -1), drawn)
        loss.backward()
        return loss

    optimiser.step(closure)
    return bias.detach().double(), given


@pytest.mark.parametrize("how", ["none", "loss", "sampler"])
@pytest.mark.parametrize("counts", [(180, 20), (100, 60, 30, 10)])
def test_probabilities_keep_their_natural_frequency(memory_set, how, counts):
    """A network that knows nothing of the image must answer the label's frequency, balanced or not."""
    head = labels.resolve_head(Plan(), memory_set(kinds={"g": len(counts)}).info)
    targets = np.repeat(np.arange(len(counts)), counts)[:, None].astype(np.int64)
    bias, given = best_constant(head, targets, how)
    frequency = np.array(counts) / sum(counts)
    if head.kind == "binary":
        assert torch.sigmoid(bias)[0].item() == pytest.approx(frequency[1], abs=0.01)
        assert given.bias[0] == pytest.approx(np.log(frequency[1] / frequency[0]), abs=0.05)
    else:
        found = torch.softmax(bias, 0).numpy()
        assert found == pytest.approx(frequency, abs=0.012)
    if how != "none":
        rare = given.chance[-1] / given.chance[0] if how == "sampler" else given.weight[-1]
        assert rare > 1


def test_balance_survives_a_class_that_is_missing(memory_set):
    head = labels.resolve_head(Plan(), memory_set(kinds={"g": 4}).info)
    targets = np.array([[0], [0], [1], [1]])
    for how in ("none", "loss", "sampler"):
        given = labels.balance(head, targets, how)
        assert all(np.isfinite(part).all() for part in (given.weight, given.shift, given.bias))
    assert labels.missing_classes(head, targets, "train") == [
        "the train split holds no image of `g` = c2",
        "the train split holds no image of `g` = c3",
    ]


def test_smoothing_moves_the_goal(memory_set):
    head = labels.resolve_head(Plan(), memory_set().info)
    given = labels.balance(head, np.array([[0], [1]]), "none")
    far = torch.tensor([[12.0]])
    right = torch.tensor([[1]])
    plain = labels.Objective(head, given, 0.0, torch.device("cpu"))(far, right)
    smooth = labels.Objective(head, given, 0.1, torch.device("cpu"))(far, right)
    assert smooth > plain + 0.3


def test_tune_metrics_by_hand(memory_set):
    head = labels.resolve_head(Plan(), memory_set().info)
    logits = np.log(
        np.array([[0.1], [0.4], [0.35], [0.8]]) / (1 - np.array([[0.1], [0.4], [0.35], [0.8]]))
    )
    found = tune_metrics(head, logits, np.array([[0], [0], [1], [1]]))
    assert found["tune/auc"] == pytest.approx(0.75)
    assert found["tune/accuracy"] == pytest.approx(0.75)
    assert found["tune/loss"] == pytest.approx(-np.log([0.9, 0.6, 0.35, 0.8]).mean())
    # both classes are summed, as in Brier's own definition
    assert found["tune/brier"] == pytest.approx(2 * np.mean([0.01, 0.16, 0.4225, 0.04]))


def test_a_missing_class_leaves_the_auc_of_the_others(memory_set):
    head = labels.resolve_head(Plan(), memory_set(kinds={"g": 3}).info)
    logits = np.array([[2.0, 0, 0], [0, 2, 0], [2, 0, 0], [0, 2, 0.0]])
    found = tune_metrics(head, logits, np.array([[0], [1], [0], [1]]))
    assert found["tune/auc"] == 1.0
    nothing = tune_metrics(head, logits, np.zeros((4, 1), np.int64))
    assert np.isnan(nothing["tune/auc"])
    assert np.isfinite(nothing["tune/loss"])
