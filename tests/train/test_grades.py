"""Grades as a scale: K - 1 columns of "this grade or a later one", from the loss to the overlay."""

import dataclasses

import numpy as np
import pytest
import torch

from data_schemas.plan import Learning, Plan
from pipeline.evaluate import statistics
from pipeline.model import decision, scoring
from pipeline.train import labels
from pipeline.train.judge import tune_metrics

COUNTS = (100, 60, 30, 10)
TARGETS = np.repeat(np.arange(4), COUNTS)[:, None].astype(np.int64)


def graded(memory_set, count=4, **more):
    """A data set whose only label is a scale of grades."""
    made = memory_set(kinds={"g": count}, **more)
    scale = made.info.labels[0].model_copy(update={"kind": "ordinal"})
    return dataclasses.replace(made, info=made.info.model_copy(update={"labels": (scale,)}))


def head_of(memory_set, count=4, **plan):
    return labels.resolve_head(Plan(**plan), graded(memory_set, count).info)


def test_grades_are_steps_of_a_scale(memory_set):
    head = head_of(memory_set, 5, positive_classes=(2, 3, 4))
    (output,) = head.outputs
    assert (head.kind, head.graded, head.columns) == ("ordinal", True, 4)
    assert (output.columns, output.link, len(output.classes)) == ((0, 1, 2, 3), "cumulative", 5)
    classes = head_of(memory_set, 5, learning=Learning(grades="classes"))
    assert (classes.kind, classes.graded, classes.columns) == ("classes", True, 5)


def test_the_loss_by_hand(memory_set):
    """Grade 2 of 0..3 asks yes, yes, no; an unknown one asks nothing."""
    head = head_of(memory_set)
    logits = torch.tensor([[2.0, -1.0, 0.5], [9.0, 9.0, 9.0]])
    given = labels.balance(head, np.array([[0], [3]]), "none")
    plain = labels.Objective(head, given, 0.0, torch.device("cpu"))
    found = plain(logits, torch.tensor([[2], [-1]]))
    reached = 1 / (1 + np.exp(-np.array([2.0, -1.0, 0.5])))
    expected = -np.log([reached[0], reached[1], 1 - reached[2]]).mean()
    assert found.item() == pytest.approx(expected, rel=1e-6)
    assert plain(logits, torch.tensor([[-1], [-1]])).item() == 0
    smooth = labels.Objective(head, given, 0.2, torch.device("cpu"))
    wanted = np.array([0.9, 0.9, 0.1])
    expected = -(wanted * np.log(reached) + (1 - wanted) * np.log(1 - reached)).mean()
    assert smooth(logits[:1], torch.tensor([[2]])).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("how", ["none", "loss", "sampler"])
def test_a_network_that_sees_nothing_answers_the_natural_frequencies(memory_set, how):
    """Whatever counters the imbalance, the prior is corrected at every step of the scale."""
    head = head_of(memory_set)
    given = labels.balance(head, TARGETS, how)
    generator = np.random.default_rng(0)
    rows = np.arange(len(TARGETS))
    if given.chance is not None:
        # as often as in the natural order: 1 / sqrt(images of the grade)
        per_grade = [given.chance[TARGETS[:, 0] == k].sum() for k in range(4)]
        assert per_grade == pytest.approx(np.sqrt(COUNTS) / np.sqrt(COUNTS).sum())
        rows = generator.choice(len(TARGETS), 60 * len(TARGETS), p=given.chance)
    objective = labels.Objective(head, given, 0.0, torch.device("cpu"))
    bias = torch.zeros(head.columns, requires_grad=True)
    drawn = torch.from_numpy(TARGETS[rows])
    optimiser = torch.optim.LBFGS([bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = objective(bias.expand(len(drawn), -1), drawn)
        loss.backward()
        return loss

    optimiser.step(closure)
    logits = bias.detach().double().numpy()[None]
    found = decision.calibrated(head.outputs[0], logits)[0]
    assert found == pytest.approx(np.array(COUNTS) / sum(COUNTS), abs=0.012)
    # and that is where the head starts
    assert given.bias == pytest.approx(logits[0], abs=0.12)


def test_balance_survives_a_grade_that_is_missing(memory_set):
    head = head_of(memory_set)
    for targets in ([[0], [0], [1]], [[3], [3]], [[0], [-1]]):
        for how in ("none", "loss", "sampler"):
            given = labels.balance(head, np.array(targets), how)
            assert all(np.isfinite(part).all() for part in (given.weight, given.shift, given.bias))


def test_the_answer_is_the_rounded_expected_grade(memory_set):
    output = head_of(memory_set).outputs[0]
    # reached: 0.9, 0.5, 0.2 -> 1.6 -> grade 2, though grade 1 is likeliest
    reached = np.array([[0.9, 0.5, 0.2], [0.2, 0.1, 0.05], [0.99, 0.99, 0.98]])
    logits = np.log(reached / (1 - reached))
    assert decision.calibrated(output, logits)[0] == pytest.approx([0.1, 0.4, 0.3, 0.2])
    assert decision.classes_of(output, logits).tolist() == [2, 0, 3]
    flat = head_of(memory_set, learning=Learning(grades="classes")).outputs[0]
    assert decision.classes_of(flat, np.array([[0.0, 3, 1, 1]])).tolist() == [1]
    # columns that cross: a later grade is never likelier than an earlier one is reached
    crossed = decision.calibrated(output, np.array([[-2.0, 2.0, 0.0]]))[0]
    assert crossed.min() >= 0
    assert crossed.sum() == pytest.approx(1)


def test_tune_metrics_of_grades(memory_set):
    head = head_of(memory_set, 3, positive_classes=(2,))
    reached = np.array([[0.2, 0.1], [0.9, 0.2], [0.9, 0.8], [0.95, 0.9]])
    logits = np.log(reached / (1 - reached))
    found = tune_metrics(head, logits, np.array([[0], [1], [2], [1]]))
    # answers 0, 1, 2, 2 of truth 0, 1, 2, 1
    assert found["tune/accuracy"] == pytest.approx(0.75)
    assert found["tune/kappa"] == pytest.approx(0.8)
    assert found["tune/auc_positive"] == pytest.approx(2 / 3)
    own = [0.8, 0.7, 0.8, 0.05]
    assert found["tune/loss"] == pytest.approx(-np.log(own).mean())
    flat = head_of(memory_set, 3, learning=Learning(grades="classes"))
    assert "tune/kappa" in tune_metrics(flat, np.eye(3)[[0, 1, 2]] * 3, np.array([[0], [1], [2]]))


def test_quadratic_kappa_counts_distances_squared():
    assert statistics.quadratic_kappa(np.diag([3, 4, 5])) == pytest.approx(1)
    # scikit-learn's cohen_kappa_score(..., weights="quadratic") of these answers
    table = statistics.confusion(
        np.array([0, 1, 2, 3, 4, 0, 2]), np.array([0, 1, 3, 3, 2, 1, 2]), 5
    )
    assert statistics.quadratic_kappa(table) == pytest.approx(0.712329, abs=1e-6)
    assert np.isnan(statistics.quadratic_kappa(np.diag([3, 0, 0])))


@pytest.mark.parametrize(
    ("positive", "step"), [((2, 3), 2), ((1, 2, 3), 1), ((3,), 3), ((0, 1), 2)]
)
def test_the_evidence_map_is_of_the_step_that_decides(memory_set, positive, step):
    output = head_of(memory_set, positive_classes=positive).outputs[0]
    logits = np.array([3.0, 1.0, -2.0])
    assert scoring.explained_class(output, logits) == (step, step - 1)
    if positive[-1] == 3:
        share = decision.calibrated(output, logits[None])[0, list(positive)].sum()
        assert share == pytest.approx(1 / (1 + np.exp(-logits[step - 1])))
