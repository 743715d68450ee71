"""Golden values of the statistics, each from a published example or two independent programs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_schemas.errors import UsageError
from pipeline.evaluate import bootstrap, statistics

TOLERANCE = 5e-7


def _check_close(pair, low, high, tolerance=TOLERANCE):
    assert pair == (pytest.approx(low, abs=tolerance), pytest.approx(high, abs=tolerance))


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [  # the first four: Newcombe 1998
        (81, 263, 0.255289, 0.366210),
        (15, 148, 0.062386, 0.160487),
        (0, 20, 0.0, 0.161125),
        (1, 29, 0.006113, 0.171755),
        (173, 198, 0.820254, 0.912995),
        (556, 621, 0.868774, 0.917025),
        (173, 238, 0.667017, 0.779557),
        (556, 581, 0.937252, 0.970687),
        (819, 852, 0.946105, 0.972289),
    ],
)
def test_wilson(count, total, low, high):
    _check_close(statistics.wilson(count, total), low, high)


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        (81, 263, 0.252737, 0.367622),
        (15, 148, 0.057844, 0.161650),
        (0, 20, 0.0, 0.168433),
        (1, 29, 0.000873, 0.177644),
        (173, 198, 0.819276, 0.916596),
        (556, 621, 0.868539, 0.918285),
        (173, 238, 0.665582, 0.782450),
        (556, 581, 0.937133, 0.971963),
        (819, 852, 0.946033, 0.973191),
    ],
)
def test_clopper_pearson(count, total, low, high):
    _check_close(statistics.clopper_pearson(count, total), low, high)


def test_four_digit_published_intervals():
    _check_close(statistics.wilson(13, 16), 0.5699, 0.9341, 5e-5)
    _check_close(statistics.clopper_pearson(13, 16), 0.5435, 0.9595, 5e-5)


def test_one_sided_bound_needs_these_many_diseased():
    """All detected: 14, 19, 29, 59 diseased are the fewest for 0.80, 0.85, 0.90, 0.95."""
    for target, fewest in ((0.80, 14), (0.85, 19), (0.90, 29), (0.95, 59)):
        assert statistics.clopper_pearson_lower(fewest, fewest) >= target
        assert statistics.clopper_pearson_lower(fewest - 1, fewest - 1) < target


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_proportion_intervals_hold_their_point_and_mirror(counts):
    count, total = counts
    for method in (statistics.wilson, statistics.clopper_pearson):
        low, high = method(count, total)
        assert 0 <= low <= count / total <= high <= 1
        mirrored = method(total - count, total)
        assert mirrored == (pytest.approx(1 - high), pytest.approx(1 - low))


def test_no_trials_is_undefined_and_nonsense_is_refused():
    assert all(map(math.isnan, statistics.wilson(0, 0) + statistics.clopper_pearson(0, 0)))
    with pytest.raises(UsageError):
        statistics.wilson(3, 2)


def _ratings(normal, diseased):
    scores = [r for counts in (normal, diseased) for r, n in enumerate(counts, 1) for _ in range(n)]
    return np.array([0] * sum(normal) + [1] * sum(diseased)), np.array(scores, float)


def test_auc_from_ratings_of_hanley_and_mcneil():
    labels, scores = _ratings((33, 6, 6, 11, 2), (3, 2, 2, 11, 33))
    found = statistics.delong(labels, scores)
    assert found.value == pytest.approx(0.893171, abs=TOLERANCE)
    assert found.standard_error == pytest.approx(0.030724, abs=TOLERANCE)


# pROC's aSAH: per wfns grade, s100b in hundredths; "4x4" is 4 repeated four times
GOOD = {
    1: "4x4 5x2 6x2 7x4 8x4 9x4 10x4 11x2 13x2 14x3 15 16 18 19 48 50",
    2: "4 7 8x2 9x2 10x3 11x2 13 14 15x3 16 17 19 43",
    3: "5 7 33",
    4: "16 17 28 32 34 38 45 47",
    5: "24 46 47 50",
}
POOR = {
    1: "7 8",
    2: "7x2 9x2 10x2 11 14 25 30 41 58",
    3: "13",
    4: "13 16 23 26 27 48 71 96",
    5: "3 12 22 32 33 35 44x2 49 52 56 70 71 74 77 82 86 207",
}


def _asah():
    rows = []
    for outcome, table in enumerate((GOOD, POOR)):
        for wfns, words in table.items():
            for word in words.split():
                value, _, times = word.partition("x")
                rows += [(outcome, wfns, int(value) / 100)] * int(times or 1)
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def test_delong_on_asah():
    labels, wfns, s100b = _asah()
    assert (int((labels == 0).sum()), int(labels.sum())) == (72, 41)
    of_wfns = statistics.delong(labels, wfns.astype(float))
    assert of_wfns.value == pytest.approx(0.823679, abs=TOLERANCE)
    assert of_wfns.standard_error == pytest.approx(0.038339, abs=TOLERANCE)
    _check_close((of_wfns.low, of_wfns.high), 0.735764, 0.886842)
    of_s100b = statistics.delong(labels, s100b)
    assert of_s100b.value == pytest.approx(0.731369, abs=TOLERANCE)
    assert of_s100b.standard_error == pytest.approx(0.051659, abs=TOLERANCE)
    _check_close((of_s100b.low, of_s100b.high), 0.619217, 0.820086)


def test_separated_classes_are_flagged():
    found = statistics.delong(np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.8, 0.9]))
    assert (found.value, found.high, found.standard_error) == (1.0, 1.0, 0.0)
    assert found.low == pytest.approx(0.158114, abs=TOLERANCE)
    assert "separated" in found.note


def test_equal_scores_have_half_the_area_and_no_interval():
    found = statistics.delong(np.array([0, 0, 1, 1]), np.full(4, 0.3))
    assert (found.value, found.standard_error) == (0.5, 0.0)
    assert math.isnan(found.low)
    assert "variance is 0" in found.note


def test_a_missing_class_is_undefined_not_a_crash():
    labels, scores = np.ones(3, int), np.array([0.1, 0.2, 0.3])
    assert math.isnan(statistics.auc(labels, scores))
    assert "class is missing" in statistics.delong(labels, scores).note
    patients = np.array(["a", "b", "c"])
    assert "class is missing" in bootstrap.patient_bootstrap(labels, scores, patients).note
    with pytest.raises(UsageError, match="0 or 1"):
        statistics.auc(np.array([0, 2]), np.array([0.1, 0.2]))


GRADES = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
ROWS = np.array(
    [
        [0.7, 0.2, 0.1],
        [0.5, 0.3, 0.2],
        [0.4, 0.4, 0.2],
        [0.2, 0.5, 0.3],
        [0.3, 0.5, 0.2],
        [0.4, 0.4, 0.2],
        [0.1, 0.6, 0.3],
        [0.1, 0.3, 0.6],
        [0.2, 0.4, 0.4],
        [0.3, 0.2, 0.5],
    ]
)


def test_macro_auc_and_official_scoring():
    per_class = statistics.one_vs_rest_auc(GRADES, ROWS)
    assert per_class == pytest.approx([0.833333, 0.880952, 1.0], abs=TOLERANCE)
    assert statistics.macro_auc(GRADES, ROWS) == pytest.approx(0.904762, abs=TOLERANCE)
    assert statistics.official_auc(GRADES, ROWS) == pytest.approx(0.904762, abs=TOLERANCE)
    assert statistics.official_accuracy(GRADES, ROWS) == pytest.approx(0.7)
    assert math.isnan(statistics.macro_auc(GRADES[:7], ROWS[:7]))


def test_official_scoring_of_binary_and_of_several_labels():
    labels, scores = np.array([0, 1, 1, 0]), np.array([0.5, 0.6, 0.4, 0.1])
    assert statistics.official_auc(labels, scores) == 0.75
    assert statistics.official_auc(labels[:, None], np.stack([1 - scores, scores], 1)) == 0.75
    # 0.5 itself is not above 0.5
    assert statistics.official_accuracy(labels, scores) == 0.75
    both, columns = np.stack([labels, 1 - labels], 1), np.stack([scores, scores], 1)
    assert statistics.official_auc(both, columns) == 0.5
    assert statistics.official_accuracy(both, columns) == 0.5


OUTCOMES = np.array([0, 0, 0, 1, 0, 1, 0, 1, 1, 1])
PROBABILITIES = np.array([0.05, 0.15, 0.25, 0.35, 0.42, 0.55, 0.65, 0.72, 0.85, 0.95])


def test_brier_and_ece():
    assert statistics.brier(OUTCOMES, PROBABILITIES) == pytest.approx(0.14148, abs=TOLERANCE)
    for bins, wanted in ((5, 0.12), (10, 0.31)):
        found = statistics.expected_calibration_error(OUTCOMES, PROBABILITIES, bins, "width")
        assert found == pytest.approx(wanted, abs=TOLERANCE)
    two = np.stack([1 - PROBABILITIES, PROBABILITIES], 1)
    assert statistics.brier(OUTCOMES, two) == pytest.approx(2 * 0.14148, abs=2 * TOLERANCE)


def test_bins_close_at_one_and_open_above():
    _, _, counts = statistics.calibration_bins(
        np.array([1, 0, 1]), np.array([1.0, 0.2, 0.0]), 5, "width"
    )
    assert counts.tolist() == [1, 1, 0, 0, 1]


def test_confusion_counts_truth_in_rows():
    found = statistics.confusion(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]), 3)
    assert found.tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]


# two eyes of eight patients: (label, score) per eye
EYES = [
    [(1, 0.9), (1, 0.8)],
    [(1, 0.7), (0, 0.4)],
    [(0, 0.3), (0, 0.2)],
    [(0, 0.5), (0, 0.6)],
    [(1, 0.55), (1, 0.35)],
    [(0, 0.1), (0, 0.25)],
    [(0, 0.45), (1, 0.65)],
    [(0, 0.15), (0, 0.05)],
]


def _eyes():
    rows = [(y, s, f"p{i}") for i, eyes in enumerate(EYES) for y, s in eyes]
    labels, scores, patients = zip(*rows, strict=True)
    return np.array(labels), np.array(scores), np.array(patients)


def test_the_same_eye_twice_says_nothing_more():
    """Every image doubled under its own patient: area, error and proportions stay as they were."""
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 2, 60)
    scores = labels + generator.normal(0, 1.2, 60)
    patients = np.arange(60).astype(str)
    once = statistics.delong(labels, scores)
    twice = statistics.delong(np.tile(labels, 2), np.tile(scores, 2), patients=np.tile(patients, 2))
    assert twice.value == pytest.approx(once.value)
    assert twice.standard_error == pytest.approx(once.standard_error, rel=0.01)
    naive = statistics.delong(np.tile(labels, 2), np.tile(scores, 2))
    assert naive.standard_error < 0.75 * once.standard_error
    hits = scores > 0.5
    one = statistics.share(hits, scores, patients)
    two = statistics.share(np.tile(hits, 2), np.tile(scores, 2), np.tile(patients, 2))
    assert (two.low, two.high) == (pytest.approx(one.low), pytest.approx(one.high))
    assert (two.numerator, two.denominator) == (2 * one.numerator, 120)
    assert "120 images count as 60.0" in two.method
    assert one.method == "Clopper-Pearson"


def test_patients_separated_in_full_count_as_patients():
    labels, scores = np.repeat([0, 1], 8), np.repeat([0.1, 0.9], 8)
    patients = np.repeat(["a", "b", "c", "d"], 4)
    found = statistics.delong(labels, scores, patients=patients)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(
        0.025 ** (1 / 2)
    )  # two patients of each class, not eight images


def test_patients_not_eyes_are_resampled():
    labels, scores, patients = _eyes()
    naive = statistics.delong(labels, scores)
    assert naive.value == pytest.approx(0.916667, abs=TOLERANCE)
    assert naive.standard_error == pytest.approx(0.075277, abs=TOLERANCE)
    by_patient = statistics.delong(labels, scores, patients=patients)
    assert (by_patient.value, by_patient.method) == (naive.value, "DeLong by patient, logit")
    assert by_patient.standard_error == pytest.approx(0.0873, abs=5e-5)  # Obuchowski 1997
    assert by_patient.low < naive.low
    each = np.arange(len(labels)).astype(str)
    assert statistics.delong(labels, scores, patients=each) == naive
    clustered = bootstrap.patient_bootstrap(labels, scores, patients, replicates=4000)
    assert clustered.value == naive.value
    # Obuchowski's clustered error is 0.0873; the bootstrap of so few patients lies just below
    assert clustered.standard_error == pytest.approx(0.086, abs=0.006)
    assert clustered.standard_error > naive.standard_error
    again = bootstrap.patient_bootstrap(labels, scores, patients, replicates=4000)
    assert again == clustered


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=40
    )
)
def test_weighted_kernel_equals_repeated_images(rows):
    """A weight is the same as standing there that often, ties included."""
    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    repeated = np.repeat(np.arange(len(rows)), weights)
    wanted = statistics.auc(labels[repeated], scores[repeated].astype(float))
    found = bootstrap._Kernel(labels, scores.astype(float)).auc(weights)
    assert found == pytest.approx(wanted, nan_ok=True)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=30))
def test_auc_is_the_share_of_ordered_pairs_and_the_curve_s_area(rows):
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    positives, negatives = scores[labels == 1], scores[labels == 0]
    found = statistics.auc(labels, scores.astype(float))
    if not (positives.size and negatives.size):
        assert math.isnan(found)
        return
    difference = positives[:, None] - negatives[None, :]
    assert found == pytest.approx(np.mean((difference > 0) + 0.5 * (difference == 0)))
    alarms, hits = statistics.roc_curve(labels, scores.astype(float))
    assert np.trapezoid(hits, alarms) == pytest.approx(found)
