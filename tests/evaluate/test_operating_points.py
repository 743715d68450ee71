"""Operating points keep their rule, and say so where the split can't support it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_schemas.errors import UsageError
from data_schemas.plan import OperatingRule
from pipeline.evaluate.operating_points import choose
from pipeline.evaluate.statistics import clopper_pearson_lower

SENSITIVITY = OperatingRule(rule="sensitivity", target=0.85)


def _rates(labels, probabilities, threshold):
    called = probabilities >= threshold
    return (
        int((called & (labels == 1)).sum()),
        int((~called & (labels == 0)).sum()),
    )


def _cohort(seed, positives, negatives, distance=2.0):
    generator = np.random.default_rng(seed)
    labels = np.array([1] * positives + [0] * negatives)
    logits = generator.normal(size=labels.size) + distance * (labels - 0.5)
    return labels, 1 / (1 + np.exp(-logits))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(19, 80), st.integers(5, 80))
def test_target_sensitivity_is_the_highest_threshold_that_shows_it(seed, positives, negatives):
    labels, probabilities = _cohort(seed, positives, negatives)
    point = choose(labels, probabilities, SENSITIVITY, label="referable")
    found, spared = _rates(labels, probabilities, point.high)
    assert point.low == point.high
    assert point.sensitivity == found / positives
    assert point.specificity == spared / negatives
    assert clopper_pearson_lower(found, positives) >= 0.85
    for higher in np.unique(probabilities[probabilities >= point.high])[1:]:
        fewer, _ = _rates(labels, probabilities, higher)
        assert fewer == found or clopper_pearson_lower(fewer, positives) < 0.85
    # the threshold lies between two probabilities, never on one
    assert not np.isin(point.high, probabilities)


def test_specificity_rule_mirrors():
    labels, probabilities = _cohort(3, 40, 60)
    rule = OperatingRule(rule="specificity", target=0.8)
    point = choose(labels, probabilities, rule, label="x")
    _, spared = _rates(labels, probabilities, point.high)
    assert clopper_pearson_lower(spared, 60) >= 0.8
    lower = np.unique(probabilities[probabilities < point.high])[-1]
    _, fewer = _rates(labels, probabilities, lower)
    assert clopper_pearson_lower(fewer, 60) < 0.8


def test_too_few_positives_fall_back_to_youden_and_say_so():
    labels, probabilities = _cohort(5, 12, 40)
    point = choose(labels, probabilities, SENSITIVITY, label="x")
    assert point.rule == "youden"
    assert "12 positive images, 19 needed" in point.note
    plain = choose(labels, probabilities, OperatingRule(rule="youden"), label="x")
    assert (plain.high, plain.note) == (point.high, "")


def test_youden_is_the_best_sum():
    labels, probabilities = _cohort(6, 30, 30)
    point = choose(labels, probabilities, OperatingRule(rule="youden"), label="x")
    best = max(sum(_rates(labels, probabilities, t)) for t in np.unique(probabilities))
    assert sum(_rates(labels, probabilities, point.high)) == best


def test_two_thresholds_leave_a_band_or_say_that_one_is_enough():
    rule = OperatingRule(rule="two_thresholds", target=0.9, target_specificity=0.9)
    labels, probabilities = _cohort(7, 100, 100, distance=1.5)
    point = choose(labels, probabilities, rule, label="x")
    assert point.low < point.high
    found, _ = _rates(labels, probabilities, point.low)
    _, spared = _rates(labels, probabilities, point.high)
    assert clopper_pearson_lower(found, 100) >= 0.9
    assert clopper_pearson_lower(spared, 100) >= 0.9
    labels, probabilities = _cohort(7, 100, 100, distance=8)
    point = choose(labels, probabilities, rule, label="x")
    assert point.low == point.high
    assert "both targets" in point.note
    few = choose(labels[95:105], probabilities[95:105], rule, label="x")
    assert few.rule == "youden"
    assert "sensitivity" in few.note
    assert "specificity" in few.note


@pytest.mark.parametrize("value", [0, 1])
def test_one_class_only_is_reported_not_crashed(value):
    point = choose(np.full(5, value), np.linspace(0, 1, 5), SENSITIVITY, label="x")
    assert (point.low, point.high, point.rule) == (0.5, 0.5, "none")
    assert "undefined" in point.note


def test_no_images():
    assert choose(np.zeros(0, int), np.zeros(0), SENSITIVITY, label="x").images == 0


def test_equal_probabilities_call_everything_positive_and_say_so():
    labels = np.array([1] * 30 + [0] * 30)
    point = choose(labels, np.full(60, 0.4), SENSITIVITY, label="x")
    assert (point.sensitivity, point.specificity) == (1.0, 0.0)
    assert "every calibration image" in point.note


def test_neighbouring_floats_still_separate():
    low = 0.3
    high = np.nextafter(low, 1)
    labels = np.array([0] * 30 + [1] * 30)
    probabilities = np.array([low] * 30 + [high] * 30)
    point = choose(labels, probabilities, SENSITIVITY, label="x")
    assert (point.sensitivity, point.specificity) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("labels", "probabilities"), [([0, 1], [0.1]), ([0, 2], [0.1, 0.2]), ([0, 1], [0.1, np.nan])]
)
def test_wrong_input_is_refused(labels, probabilities):
    with pytest.raises(UsageError):
        choose(np.array(labels), np.array(probabilities), SENSITIVITY, label="x")
