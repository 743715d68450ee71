"""Calibration error with what chance gives, slope and offset, and correction to another prevalence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from data_schemas.errors import UsageError
from pipeline.evaluate import prevalence, statistics
from pipeline.evaluate.reliability import calibration_errors, perfect_errors, recalibration
from tests.model import tiny_network as tiny

# golden values: logistic regressions of statsmodels
OUTCOMES = np.array([0, 0, 0, 1, 0, 1, 0, 1, 1, 1])
PROBABILITIES = np.array([0.05, 0.15, 0.25, 0.35, 0.42, 0.55, 0.65, 0.72, 0.85, 0.95])


def _alone(count):
    return np.array([f"p{k}" for k in range(count)])


def _drawn(count, seed=0, bent=1.0, moved=0.0):
    """Probabilities, and labels whose true log-odds are bent and moved from them."""
    generator = np.random.default_rng(seed)
    odds = generator.normal(size=count) * 2
    return (generator.random(count) < expit(odds * bent + moved)).astype(int), expit(odds)


def test_slope_and_offset_are_the_golden_ones():
    slope, large = recalibration(OUTCOMES, PROBABILITIES)
    assert slope.value == pytest.approx(1.495325, abs=5e-7)
    assert (slope.high - slope.low) / 2 / 1.959964 == pytest.approx(0.957502, abs=1e-6)
    assert large.value == pytest.approx(0.035598, abs=5e-7)
    assert (large.high - large.low) / 2 / 1.959964 == pytest.approx(0.770217, abs=1e-6)


def test_slope_and_offset_find_what_was_put_in():
    labels, values = _drawn(40_000, bent=0.6, moved=0.0)
    slope, _ = recalibration(labels, values)
    assert slope.value == pytest.approx(0.6, abs=0.03)
    labels, values = _drawn(40_000, moved=-0.7)
    slope, large = recalibration(labels, values)
    assert slope.value == pytest.approx(1, abs=0.05)
    assert large.value == pytest.approx(-0.7, abs=0.05)


def test_doubled_images_of_a_patient_do_not_narrow_the_interval():
    labels, values = _drawn(300, seed=3)
    once = recalibration(labels, values, _alone(300))[0]
    patients = np.repeat(_alone(300), 2)
    doubled = recalibration(np.repeat(labels, 2), np.repeat(values, 2), patients)[0]
    naive = recalibration(np.repeat(labels, 2), np.repeat(values, 2))[0]
    assert doubled.value == pytest.approx(once.value)
    assert doubled.high - doubled.low == pytest.approx(once.high - once.low, rel=0.15)
    assert naive.high - naive.low < 0.8 * (once.high - once.low)


def test_separated_or_single_classes_have_no_slope():
    slope, _ = recalibration(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]))
    assert slope.value is None
    assert recalibration(np.ones(4, int), np.linspace(0.1, 0.9, 4))[1].value is None


def test_bins_of_equal_mass_hold_as_many_images_each():
    labels, values = _drawn(300)
    mean, share, counts = statistics.calibration_bins(labels, values)
    assert counts.tolist() == [20] * 15
    order = np.argsort(values)
    assert mean[3] == pytest.approx(values[order[60:80]].mean())
    assert share[3] == pytest.approx(labels[order[60:80]].mean())
    by_hand = np.mean([abs(values[k].mean() - labels[k].mean()) for k in order.reshape(15, 20)])
    assert statistics.expected_calibration_error(labels, values) == pytest.approx(by_hand)


def test_equal_probabilities_share_a_bin_whatever_their_order():
    values = np.array([0.2] * 10 + [0.8] * 10)
    labels = np.array([0, 1] * 10)
    error = statistics.expected_calibration_error(labels, values)
    assert error == pytest.approx(0.3)
    order = np.random.default_rng(0).permutation(20)
    assert statistics.expected_calibration_error(labels[order], values[order]) == error


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=60
    ),
    st.sampled_from(["mass", "width"]),
)
def test_a_weight_is_the_same_as_standing_there_that_often(rows, kind):
    labels, tenths, weights = (np.array(column) for column in zip(*rows, strict=True))
    repeated = np.repeat(np.arange(len(rows)), weights)
    found = statistics.Bins(labels, tenths / 9, 5, kind).error(weights)
    wanted = statistics.Bins(labels[repeated], tenths[repeated] / 9, 5, kind).error()
    assert found == pytest.approx(wanted, nan_ok=True)


def test_a_true_network_s_interval_reaches_zero_and_its_error_is_called_chance():
    labels, values = _drawn(200, seed=1)
    errors = calibration_errors(labels, values, values, _alone(200))
    assert errors.after.low == 0
    assert errors.after.value > 0.03
    assert errors.perfect.value == pytest.approx(errors.after.value, abs=0.03)
    assert errors.change.value == 0
    assert not errors.worse
    assert np.mean(perfect_errors(values)) > np.mean(perfect_errors(np.tile(values, 10)))


def test_an_error_that_is_there_is_told_from_chance():
    labels, values = _drawn(600, seed=2, moved=1.5)
    errors = calibration_errors(labels, values, values, _alone(600))
    assert errors.after.low > 0.1
    assert errors.perfect.high < errors.after.low


def test_calibration_that_made_it_worse_is_found():
    labels, values = _drawn(600, seed=4)
    errors = calibration_errors(labels, values, expit(logit(values) - 2), _alone(600))
    assert errors.worse
    better = calibration_errors(labels, expit(logit(values) - 2), values, _alone(600))
    assert not better.worse
    assert better.change.high < 0
    assert calibration_errors(labels[:0], values[:0], values[:0], _alone(0)).after.value is None


def test_correction_is_bayes_rule():
    """Two normal scores of known density: the corrected probability is the one computed anew."""
    scores = np.linspace(-3, 3, 13)

    def true(prior):
        odds = prior / (1 - prior) * np.exp(2 * scores)  # N(1, 1) against N(-1, 1)
        return odds / (1 + odds)

    assert prevalence.corrected(true(0.3), 0.3, 0.8) == pytest.approx(true(0.8))
    assert prevalence.corrected(true(0.3), 0.3, 0.3) == pytest.approx(true(0.3))
    with pytest.raises(UsageError, match="between 0 and 1"):
        prevalence.corrected(true(0.3), 0.3, 1.0)


def test_prevalence_is_estimated_from_scores_without_labels():
    generator = np.random.default_rng(0)
    for there in (0.1, 0.625, 0.9):
        labels = (generator.random(20_000) < there).astype(int)
        scores = generator.normal(size=labels.size) + 2 * labels - 1
        calibrated = expit(2 * scores + logit(0.74))
        found = prevalence.estimated_prevalence(calibrated, 0.74)
        assert found == pytest.approx(there, abs=0.02)


def test_the_estimate_is_the_most_likely_prevalence():
    """Saerens et al. 2002: EM climbs to the maximum of the likelihood of the scores."""
    labels, values = _drawn(80, seed=6)
    assert labels.size == 80
    found = prevalence.estimated_prevalence(values, 0.4)

    def likelihood(at):
        return np.sum(np.log(values * at / 0.4 + (1 - values) * (1 - at) / 0.6))

    grid = np.linspace(0.001, 0.999, 4000)
    best = grid[np.argmax([likelihood(at) for at in grid])]
    assert found == pytest.approx(best, abs=5e-4)


def test_rows_show_the_shift_and_what_mends_it():
    generator = np.random.default_rng(1)
    labels = (generator.random(4000) < 0.3).astype(int)
    scores = generator.normal(size=4000) + 2 * labels - 1
    values = expit(2 * scores + logit(0.7))
    point = tiny.point("x", 0.5, 0.5).model_copy(update={"images": 1000, "positives": 700})
    as_is, estimated, stated = prevalence.prevalence_rows(labels, values, point, 0.3)
    assert [row.prior for row in (as_is, estimated, stated)] == [
        "as calibrated",
        "estimated",
        "stated",
    ]
    assert (as_is.prevalence, stated.prevalence) == (0.7, 0.3)
    assert estimated.prevalence == pytest.approx(0.3, abs=0.03)
    assert as_is.ece > 4 * estimated.ece
    assert as_is.log_loss > estimated.log_loss
    assert as_is.sensitivity > stated.sensitivity
    assert as_is.specificity < stated.specificity
    # the labels of the split have no part in the estimate
    other = prevalence.prevalence_rows(1 - labels, values, point)
    assert other[1].prevalence == estimated.prevalence
    assert prevalence.prevalence_rows(labels[:0], values[:0], point) == ()
    unknown = point.model_copy(update={"positives": 0})
    assert prevalence.prevalence_rows(labels, values, unknown) == ()


def test_kappa_is_the_golden_one():
    rows = [[160, 8, 5, 1, 0], [20, 14, 10, 2, 0], [8, 10, 60, 12, 2], [0, 1, 14, 48, 5]]
    table = np.array([*rows, [0, 0, 3, 8, 9]])
    assert statistics.quadratic_kappa(table) == pytest.approx(0.868845, abs=5e-7)
    other = np.array([[7, 7, 2, 3], [2, 8, 3, 7], [1, 5, 4, 9], [2, 8, 9, 14]])
    assert statistics.quadratic_kappa(other) == pytest.approx(0.3320, abs=5e-5)
    assert np.isnan(statistics.quadratic_kappa(np.diag([5, 0, 0])))
