"""The temperature is found where it exists, and its absence is said."""

import numpy as np
import pytest
from scipy.special import expit

from data_schemas.errors import UsageError
from pipeline.evaluate.calibration import fit_temperature, temperature


def test_sigmoid_temperature_is_recovered():
    generator = np.random.default_rng(0)
    true_logits = generator.normal(size=40_000) * 1.5
    labels = (generator.random(true_logits.size) < expit(true_logits)).astype(int)
    assert temperature(true_logits * 2.5, labels, "binary") == pytest.approx(2.5, rel=0.05)
    assert temperature((true_logits * 0.4)[:, None], labels, "binary") == pytest.approx(
        0.4, rel=0.05
    )


def test_softmax_temperature_is_recovered_and_lowers_the_loss():
    generator = np.random.default_rng(1)
    true_logits = generator.normal(size=(30_000, 4))
    noise = generator.gumbel(size=true_logits.shape)
    labels = np.argmax(true_logits + noise, axis=1)
    fit = fit_temperature(true_logits * 3, labels, "classes")
    assert fit.value == pytest.approx(3, rel=0.05)
    assert fit.loss_after < fit.loss_before
    assert fit.note == ""


def test_binary_and_two_classes_agree():
    generator = np.random.default_rng(2)
    logits = generator.normal(size=500)
    labels = (generator.random(500) < expit(logits)).astype(int)
    two = np.stack([np.zeros(500), logits], axis=1)
    assert temperature(logits, labels, "binary") == pytest.approx(
        temperature(two, labels, "classes")
    )


@pytest.mark.parametrize(
    ("logits", "labels", "word"),
    [
        ([], [], "no images"),
        ([1.0, 2.0], [1, 1], "one class"),
        ([-1.0, -2.0, 1.0, 3.0], [0, 0, 1, 1], "separate"),
    ],
)
def test_a_split_without_an_answer_keeps_one(logits, labels, word):
    fit = fit_temperature(np.array(logits, float), np.array(labels, int), "binary")
    assert fit.value == 1.0
    assert word in fit.note


def test_logits_against_the_truth_end_at_the_highest_temperature():
    fit = fit_temperature(np.array([3.0, 2.0, -2.0, -3.0]), np.array([0, 0, 1, 1]), "binary")
    assert fit.value == pytest.approx(20, rel=0.01)
    assert "say nothing" in fit.note


def test_wrong_input_is_refused():
    with pytest.raises(UsageError, match="finite"):
        temperature(np.array([np.nan, 1.0]), np.array([0, 1]), "binary")
    with pytest.raises(UsageError, match="one logit"):
        temperature(np.zeros((2, 3)), np.array([0, 1]), "binary")
    with pytest.raises(UsageError, match="labels"):
        temperature(np.zeros((2, 3)), np.array([0, 3]), "classes")
