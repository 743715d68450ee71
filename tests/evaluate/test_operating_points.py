"""Operating points keep their rule, and say so where the split can't support it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import norm

from data_schemas.errors import UsageError
from data_schemas.plan import OperatingRule
from pipeline.evaluate.operating_points import choose, design_effect, further
from pipeline.evaluate.statistics import clopper_pearson_lower
from pipeline.train.pages import described

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
    assert few.proven
    assert "undefined" not in described(few)
    assert "sensitivity" in few.note
    assert "specificity" in few.note


@pytest.mark.parametrize("value", [0, 1])
def test_one_class_only_is_reported_not_crashed(value):
    point = choose(np.full(5, value), np.linspace(0, 1, 5), SENSITIVITY, label="x")
    assert (point.low, point.high, point.rule) == (0.5, 0.5, "none")
    assert "undefined" in point.note
    assert not point.proven
    # the zeros that stand for undefined are shown to nobody as figures
    assert "sensitivity and specificity undefined" in described(point)


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


def test_cost_takes_its_threshold_from_the_costs_alone():
    labels, probabilities = _cohort(8, 30, 50)
    rule = OperatingRule(rule="cost", cost_false_alarm=1, cost_miss=4)
    point = choose(labels, probabilities, rule, label="x")
    assert (point.low, point.high) == (0.2, 0.2)
    found, spared = _rates(labels, probabilities, 0.2)
    assert (point.sensitivity, point.specificity) == (found / 30, spared / 50)
    assert point.rule == "cost: a miss 4, a false alarm 1"


def test_the_cost_threshold_is_the_cheapest_where_probabilities_are_true():
    generator = np.random.default_rng(0)
    probabilities = generator.random(200_000)
    labels = (generator.random(probabilities.size) < probabilities).astype(int)

    def cost(threshold):
        called = probabilities >= threshold
        return np.sum(called & (labels == 0)) * 2 + np.sum(~called & (labels == 1)) * 3

    rule = OperatingRule(rule="cost", cost_false_alarm=2, cost_miss=3)
    chosen = choose(labels, probabilities, rule, label="x").high
    assert chosen == 0.4
    assert cost(chosen) < min(cost(chosen - 0.03), cost(chosen + 0.03))


def test_design_effect_of_equal_and_of_unlike_eyes():
    generator = np.random.default_rng(1)
    patients = np.repeat(np.arange(400).astype(str), 2)
    alike = np.repeat(generator.normal(size=400), 2)
    assert design_effect(alike, patients) == pytest.approx(2.0)
    assert design_effect(generator.normal(size=800), patients) == pytest.approx(1.0, abs=0.12)
    halfway = alike + generator.normal(size=800)
    # the correlation of two such eyes is one half, so that n counts as n / 1.5
    assert design_effect(halfway, patients) == pytest.approx(1.5, abs=0.1)
    assert design_effect(alike[:400], np.arange(400).astype(str)) == 1.0
    assert design_effect(np.ones(4), np.array(["a", "a", "b", "b"])) == 1.0
    assert design_effect(np.ones(1), np.array(["a"])) == 1.0


def test_sixty_images_of_one_patient_show_no_sensitivity():
    generator = np.random.default_rng(4)
    assert design_effect(generator.normal(size=60), np.full(60, "a")) == 60.0
    truth = np.repeat([1, 0], [60, 200])
    values = np.concatenate([generator.uniform(0.6, 1, 60), generator.uniform(0, 0.5, 200)])
    patients = np.concatenate([np.full(60, "a"), np.arange(200).astype(str)])
    rule = OperatingRule(rule="sensitivity", target=0.95)
    point = choose(truth, values, rule, label="x", patients=patients)
    assert point.note
    assert point.effective_positives == 1


def test_two_eyes_that_agree_count_as_one():
    """30 images of 15 patients whose eyes agree show no more than 15 images do."""
    patients = np.concatenate([np.repeat(np.arange(15), 2), np.arange(100, 140)]).astype(str)
    labels = np.array([1] * 30 + [0] * 40)
    generator = np.random.default_rng(2)
    probabilities = np.concatenate(
        [np.repeat(generator.uniform(0.5, 1, 15), 2), generator.uniform(0, 0.5, 40)]
    )
    apart = choose(labels, probabilities, SENSITIVITY, label="x")
    assert (apart.rule.split()[0], apart.effective_positives) == ("sensitivity", 30)
    together = choose(labels, probabilities, SENSITIVITY, label="x", patients=patients)
    assert together.rule == "youden"
    assert together.effective_positives == pytest.approx(15)
    assert together.effective_negatives == 40
    assert "30 positive images of several a patient, which count as 15.0, 19 needed" in (
        together.note
    )


def test_clustered_bound_keeps_its_promise_where_the_plain_one_does_not():
    """Share of draws in which the threshold's true sensitivity is below the target: at most 5 %."""
    generator = np.random.default_rng(5)
    below = {"plain": 0, "clustered": 0}
    truth = np.array([1] * 160 + [0] * 10)
    patients = np.concatenate([np.repeat(np.arange(40), 4), np.arange(100, 110)]).astype(str)
    rule = OperatingRule(rule="sensitivity", target=0.8)
    rounds = 300
    for _ in range(rounds):
        # four pictures of a patient with a correlation of 0.9
        shared = np.repeat(generator.normal(size=40), 4) * np.sqrt(0.9)
        sick = 1 + shared + generator.normal(size=160) * np.sqrt(0.1)
        scores = expit(np.concatenate([sick, generator.normal(size=10) - 1]))
        for name, whose in (("plain", None), ("clustered", patients)):
            point = choose(truth, scores, rule, label="x", patients=whose)
            below[name] += norm.sf(logit(point.high), 1) < 0.8
    assert below["clustered"] / rounds <= 0.07
    assert below["plain"] / rounds > 0.12


def test_further_points_are_shown_or_left_out():
    labels, probabilities = _cohort(11, 100, 100, distance=3)
    rules = (
        OperatingRule(name="rule_out", rule="sensitivity", target=0.9),
        OperatingRule(name="rule_in", rule="specificity", target=0.9),
        OperatingRule(name="never", rule="sensitivity", target=0.999),
        OperatingRule(name="best", rule="youden"),
    )
    found, notes = further(labels, probabilities, rules, label="x")
    assert [point.name for point in found] == ["rule_out", "rule_in", "best"]
    assert {point.label for point in found} == {"x"}
    assert found[0].sensitivity >= 0.9
    assert found[1].specificity >= 0.9
    (left,) = notes
    assert left.startswith("no point `never`: sensitivity >= 0.999 can't be shown")
    assert "Youden" not in left
    none, why = further(np.ones(5, int), np.linspace(0, 1, 5), rules[:1], label="x")
    assert none == ()
    assert "no negative image" in why[0]


def test_band_reports_coverage_risk_and_the_diseased_in_it():
    rule = OperatingRule(rule="two_thresholds", target=0.9, target_specificity=0.9)
    labels, probabilities = _cohort(7, 100, 100, distance=1.5)
    point = choose(labels, probabilities, rule, label="x")
    called, spared = probabilities >= point.high, probabilities < point.low
    wrong = (called & (labels == 0)).sum() + (spared & (labels == 1)).sum()
    assert point.coverage == (called | spared).mean()
    assert point.risk == wrong / (called | spared).sum()
    assert point.band_positives == labels[~called & ~spared].sum()
    single = choose(labels, probabilities, SENSITIVITY, label="x")
    assert (single.coverage, single.risk, single.band_positives) == (None, None, None)
