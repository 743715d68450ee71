"""Thresholds are inclusive, states follow the probability, classes and binaries alike."""

from types import SimpleNamespace

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


def scored(card, logits, laterality="U"):
    """Return the score of an image with these logits; None: it could not be judged."""
    found = decision.not_assessed(card) if logits is None else decision.decide(card, logits)
    return laterality, SimpleNamespace(verdict=found.verdict, findings=found.findings)


def test_an_image_out_of_scope_says_nothing_about_the_patient_whatever_it_scores():
    card = tiny.card()
    _, strange = scored(card, np.array([9.0, 9.0]))
    strange.verdict = "out_of_scope"
    alone = decision.decide_patient(card, [("L", strange)])
    assert (alone.verdict, alone.findings[0].probability) == ("out_of_scope", None)
    other = scored(card, np.array([-9.0, -9.0]), "R")
    for side, verdict in (("L", "out_of_scope"), ("R", "negative")):
        patient = decision.decide_patient(card, [(side, strange), other])
        assert patient.verdict == verdict
        assert patient.findings[0].probability == other[1].findings[0].probability


SIDES = st.sampled_from(["L", "R", "B", "U"])
IMAGES = st.lists(st.tuples(SIDES, st.none() | st.tuples(LOGIT, LOGIT)), min_size=1, max_size=6)


@given(IMAGES, st.sampled_from(["highest", "mean"]))
def test_a_patient_is_positive_if_a_side_is_and_negative_only_if_all_were_judged(images, rule):
    card = tiny.card(aggregate=rule)
    scores = [scored(card, None if row is None else np.array(row), side) for side, row in images]
    patient = decision.decide_patient(card, scores)
    assert sorted(place for side in patient.sides for place in side.images) == [*range(len(scores))]
    verdicts = [side.verdict for side in patient.sides]
    if "positive" in verdicts:
        assert patient.verdict == "positive"
    elif "insufficient_quality" in verdicts:
        assert patient.verdict == "insufficient_quality"
        assert all(finding.state != "absent" for finding in patient.findings)
    else:
        assert patient.verdict in verdicts
        assert (patient.verdict == "negative") == (set(verdicts) == {"negative"})
    for place, finding in enumerate(patient.findings):
        known = [side.findings[place].probability for side in patient.sides]
        assert finding.probability == max((p for p in known if p is not None), default=None)


@given(IMAGES)
def test_the_highest_of_a_side_is_its_likeliest_image_and_one_image_is_its_own_side(images):
    card = tiny.card()
    scores = [scored(card, None if row is None else np.array(row), side) for side, row in images]
    for side in decision.decide_patient(card, scores).sides:
        own = [scores[place][1] for place in side.images]
        known = [one.findings[0].probability for one in own]
        assert side.findings[0].probability == max(
            (p for p in known if p is not None), default=None
        )
        if len(own) == 1:
            assert (side.verdict, side.findings) == (own[0].verdict, own[0].findings)


def test_the_mean_is_over_the_views_of_one_known_side():
    card = tiny.card(aggregate="mean")
    rows = [np.array([2.0, 0.0]), np.array([-1.0, 0.0])]
    alone = [scored(card, row)[1].findings[0].probability for row in rows]
    for side, expected in (("L", sum(alone) / 2), ("U", max(alone))):
        patient = decision.decide_patient(card, [scored(card, row, side) for row in rows])
        assert patient.findings[0].probability == pytest.approx(expected)
    # a view that could not be judged doesn't count, and doesn't hold the side up
    patient = decision.decide_patient(card, [scored(card, rows[0], "L"), scored(card, None, "L")])
    assert patient.findings[0].probability == alone[0]
    assert patient.verdict == "positive"


def test_what_is_outside_stays_to_be_seen_and_says_nothing_about_the_patient():
    card = tiny.card()
    side, inside = scored(card, np.array([-2.0, 0.0]), "L")
    found = decision.out_of_scope(decision.decide(card, np.array([9.0, 0.0])))
    assert found.verdict == "out_of_scope"
    assert found.findings[0].probability == pytest.approx(0.99988, abs=1e-4)
    assert {finding.state for finding in found.findings} == {"not_assessed"}
    outside = SimpleNamespace(verdict=found.verdict, findings=found.findings)
    # another view of the same eye answers for it; of the other eye nothing is known
    patient = decision.decide_patient(card, [(side, inside), (side, outside)])
    assert (patient.verdict, patient.findings) == ("negative", inside.findings)
    patient = decision.decide_patient(card, [(side, inside), ("R", outside)])
    assert patient.verdict == "out_of_scope"
    assert patient.findings[0].probability == inside.findings[0].probability
    assert patient.findings[0].state == "not_assessed"


def test_every_point_of_the_card_is_answered():
    low, high = tiny.point("referable"), tiny.point("referable", 0.9, 0.95)
    card = tiny.card(points=(low, high.model_copy(update={"name": "rule_in"})))
    logits = np.array([1.0, 0.0])  # 0.73
    found = decision.every_point(card, decision.decide(card, logits).findings)
    assert [(one.name, one.state) for one in found] == [
        ("default", "present"),
        ("rule_in", "absent"),
    ]
