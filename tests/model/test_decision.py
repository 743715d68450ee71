"""Thresholds are inclusive, states follow the probability, classes and binaries alike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from data_schemas.errors import UsageError
from pipeline.model import decision
from tests.model import tiny_network as tiny

ORDER = {"absent": 0, "uncertain": 1, "present": 2}
UNIT = st.floats(0, 1, allow_nan=False)
LOGIT = st.floats(-50, 50, allow_nan=False, width=32)


@given(st.tuples(UNIT, UNIT).map(sorted), st.tuples(UNIT, UNIT).map(sorted))
def test_states_rise_with_the_probability(limits, values):
    point = tiny.point("x", *limits)
    low, high = (ORDER[decision.state(point, value)] for value in values)
    assert low <= high


@given(st.tuples(UNIT, UNIT).map(sorted))
def test_thresholds_are_inclusive(limits):
    low, high = limits
    point = tiny.point("x", low, high)
    assert decision.state(point, high) == "present"
    if low < high:
        assert decision.state(point, low) == "uncertain"
        assert decision.state(point, np.nextafter(high, 0)) == "uncertain"
    if low > 0:
        assert decision.state(point, np.nextafter(low, -1)) == "absent"


@given(st.lists(LOGIT, min_size=5, max_size=5), st.floats(0.05, 20))
def test_softmax_columns_sum_to_one_and_positive_is_their_sum(logits, heat):
    output = tiny.GRADES.model_copy(update={"temperature": heat})
    card = tiny.card(outputs=(output,))
    row = np.array([logits])
    found = decision.probabilities(card, row)["dr_grade"]
    assert found.shape == (1, 5)
    assert found.sum() == pytest.approx(1)
    positive = decision.positive_probability(card, "dr_grade", row)
    assert positive == pytest.approx(found[:, 2:].sum())
    assert 0 <= positive[0] <= 1
    assert np.argmax(found) == np.argmax(row / heat) or np.ptp(np.sort(row)[0, -2:] / heat) < 1e-9


@given(LOGIT, LOGIT, st.floats(0.05, 20))
def test_sigmoid_uses_the_temperature_and_is_monotone(one, other, heat):
    output = tiny.BINARY.model_copy(update={"temperature": heat})
    card = tiny.card(outputs=(output,))
    logits = np.array([[one], [other]])
    found = decision.positive_probability(card, "referable", logits)
    assert found == pytest.approx(expit(logits[:, 0] / heat))
    assert (found[0] <= found[1]) or one > other
    both = decision.probabilities(card, logits)["referable"]
    assert both[:, 1] == pytest.approx(found)
    assert both.sum(axis=1) == pytest.approx(1)


def test_extreme_logits_do_not_overflow():
    card = tiny.card()
    found = decision.probabilities(card, np.array([[1e6, -1e6]], np.float32))
    assert found["referable"][0].tolist() == [0, 1]
    assert found["exudates"][0].tolist() == [1, 0]


def test_columns_are_taken_by_the_card_not_by_their_order():
    swapped = (
        tiny.BINARY.model_copy(update={"columns": (1,)}),
        tiny.SECOND.model_copy(update={"columns": (0,)}),
    )
    card = tiny.card(outputs=swapped)
    assert decision.positive_probability(card, "referable", np.array([[-9.0, 9.0]]))[0] > 0.99


@pytest.mark.parametrize(
    ("logit", "verdict"), [(3.0, "positive"), (0.0, "indeterminate"), (-3.0, "negative")]
)
def test_verdict_follows_the_primary_label(logit, verdict):
    card = tiny.card()
    found = decision.decide(card, np.array([logit, -5.0], np.float32))
    assert found.verdict == verdict
    assert decision.verdicts(card, np.array([[logit, 8.0]])) == [verdict]
    assert [finding.name for finding in found.findings] == ["referable", "exudates"]
    assert found.findings[1].state == "absent"
    assert found.probabilities["referable"]["yes"] == found.findings[0].probability


def test_a_label_without_operating_point_is_not_assessed():
    card = tiny.card(points=(tiny.point("referable"),))
    found = decision.decide(card, np.array([0.0, 9.0]))
    assert found.findings[1].state == "not_assessed"
    assert found.findings[1].probability == pytest.approx(0.99988, abs=1e-4)


def test_insufficient_quality_claims_nothing():
    found = decision.not_assessed(tiny.card())
    assert found.verdict == "insufficient_quality"
    assert found.probabilities == {}
    assert {finding.state for finding in found.findings} == {"not_assessed"}
    assert {finding.probability for finding in found.findings} == {None}


def test_an_unknown_label_is_named():
    with pytest.raises(UsageError, match="maculopathy"):
        decision.positive_probability(tiny.card(), "maculopathy", np.zeros((1, 2)))
