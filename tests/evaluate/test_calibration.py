"""Calibration finds what is there, says what it can't find, and equals the field's own fits."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from data_schemas.card import Output
from data_schemas.errors import UsageError
from pipeline.evaluate import calibration, statistics
from pipeline.evaluate.calibration import fit_calibration, fitted
from pipeline.model import decision
from tests.model.tiny_network import BINARY, GRADES

CUMULATIVE = Output(
    label="grade",
    classes=("0", "1", "2", "3"),
    columns=(0, 1, 2),
    link="cumulative",
    positive_classes=(2, 3),
)


def _binary(count, seed=0, spread=1.5):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=count) * spread
    return logits, (generator.random(count) < expit(logits)).astype(int)


def _classes(count, seed=1, columns=5):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(count, columns))
    return logits, np.argmax(logits + generator.gumbel(size=logits.shape), axis=1)


def _grades(count, seed=2):
    """A latent severity, cut at -1, 0 and 1.5: the calibrated logit of a step is x - cut."""
    generator = np.random.default_rng(seed)
    severity = generator.normal(size=count) * 2
    cuts = np.array([-1.0, 0.0, 1.5])
    noise = generator.logistic(size=count)
    return severity[:, None] - cuts, (severity + noise)[:, None] > cuts


def test_platt_scaling_equals_logistic_regression():
    logits, labels = _binary(400)
    bent = (logits - 0.8) * 2.5
    temperature, shift = fitted(
        bent[:, None], labels[:, None].astype(float), BINARY, "bias", (0.0, 0.0)
    )
    golden = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(bent[:, None], labels)
    assert 1 / temperature == pytest.approx(golden.coef_[0, 0], rel=1e-4)
    assert shift[0] == pytest.approx(golden.intercept_[0], abs=1e-4)
    ours = decision.calibrated(
        BINARY.model_copy(update={"temperature": temperature, "shift": shift}), bent[:, None]
    )
    assert ours == pytest.approx(golden.predict_proba(bent[:, None]), abs=1e-4)


def test_penalised_scaling_equals_a_fit_by_brute_force():
    """Nothing near the answer has a smaller penalised loss, written out anew."""
    logits, labels = _binary(60, seed=4)
    bent = (logits[:, None] + 1) * 3

    def loss(temperature, shift):
        p = expit(bent[:, 0] / temperature + shift)
        data = -np.sum(np.log(np.where(labels == 1, p, 1 - p)))
        return data + 0.5 * (4 * np.log(temperature) ** 2 + 0.25 * shift**2)

    temperature, (shift,) = fitted(bent, labels[:, None].astype(float), BINARY, "bias")
    best = loss(temperature, shift)
    for heat in (0.97, 1.0, 1.03):
        for move in (-0.03, 0.0, 0.03):
            assert loss(temperature * heat, shift + move) >= best - 1e-7


@pytest.mark.parametrize("true", [2.5, 0.4])
def test_temperature_of_a_sigmoid_is_found(true):
    logits, labels = _binary(20_000)
    fit = fit_calibration(logits[:, None] * true, labels, BINARY, "temperature")
    assert (fit.method, fit.shift, fit.note) == ("temperature", (), "")
    assert fit.temperature == pytest.approx(true, rel=0.05)
    assert fit.loss_after < fit.loss_before


def test_temperature_and_shifts_of_a_softmax_are_found():
    logits, labels = _classes(20_000)
    moved = np.array([0.0, 1.5, -1.0, 0.5, -1.0])
    fit = fit_calibration((logits - moved) * 3, labels, GRADES)
    assert fit.method == "bias"
    assert fit.temperature == pytest.approx(3, rel=0.05)
    assert fit.shift == pytest.approx(moved, abs=0.1)
    plain = fit_calibration(logits * 3, labels, GRADES, "temperature")
    assert plain.temperature == pytest.approx(3, rel=0.05)


def test_temperature_and_shifts_of_a_scale_of_grades_are_found():
    logits, reached = _grades(20_000)
    labels = reached.sum(axis=1)
    moved = np.array([1.0, -0.5, 0.25])
    fit = fit_calibration((logits - moved) * 2, labels, CUMULATIVE)
    assert fit.method == "bias"
    assert fit.temperature == pytest.approx(2, rel=0.05)
    assert fit.shift == pytest.approx(moved, abs=0.1)
    shares = decision.calibrated(fit.applied(CUMULATIVE), (logits - moved) * 2)
    assert shares[:, 2:].sum(axis=1).mean() == pytest.approx((labels >= 2).mean(), abs=0.01)


def test_a_binary_label_and_two_classes_agree():
    logits, labels = _binary(500, seed=2)
    two = BINARY.model_copy(update={"columns": (0, 1)})
    both = np.stack([np.zeros(500), logits], axis=1)
    assert fit_calibration(logits[:, None], labels, BINARY, "temperature").temperature == (
        pytest.approx(fit_calibration(both, labels, two, "temperature").temperature, rel=1e-5)
    )


def test_a_shift_is_taken_where_it_pays_and_left_where_it_does_not():
    logits, labels = _binary(300, seed=5)
    paid = fit_calibration((logits - 1.5)[:, None], labels, BINARY)
    assert paid.method == "bias"
    assert paid.losses["bias"] < paid.losses["temperature"]
    idle = fit_calibration(2 * logits[:, None], labels, BINARY)
    assert idle.method == "temperature"
    assert set(idle.losses) == {"none", "temperature", "bias"}
    assert fit_calibration(logits[:, None], labels, BINARY, "none").temperature == 1.0


def test_a_temperature_that_does_harm_in_cross_validation_is_not_used(monkeypatch):
    logits, labels = _binary(300, seed=8)
    real = calibration.fitted

    def hot(values, wanted, output, method, penalty=calibration.PENALTY):
        found = real(values, wanted, output, method, penalty)
        return (found[0] * 6, found[1]) if method == "temperature" and penalty[0] else found

    monkeypatch.setattr(calibration, "fitted", hot)
    fit = fit_calibration(logits[:, None], labels, BINARY, "temperature")
    assert (fit.method, fit.temperature) == ("none", 1.0)
    assert fit.losses["none"] < fit.losses["temperature"]
    assert "not calibrated: it made the log-loss" in fit.note


def test_on_few_images_new_images_are_seldom_worse_off():
    """Sixty images of a network that is right as it is: calibrating costs at most little."""
    extra = []
    new, truth = _binary(20_000, seed=99)
    floor = statistics.log_loss(truth, expit(new))
    for seed in range(20):
        logits, labels = _binary(60, seed=seed)
        fit = fit_calibration(logits[:, None], labels, BINARY)
        found = decision.calibrated(fit.applied(BINARY), new[:, None])[:, 1]
        extra.append(statistics.log_loss(truth, found) - floor)
    assert np.mean(extra) < 0.02
    assert max(extra) < 0.15


def test_too_few_images_on_a_side_give_a_temperature_and_say_so():
    logits, labels = _binary(40, seed=6)
    labels[np.flatnonzero(labels)[7:]] = 0
    fit = fit_calibration(logits[:, None], labels, BINARY)
    assert fit.method in ("temperature", "none")
    assert "7 images on one side, 10 needed" in fit.note


def test_patients_are_whole_in_one_fold():
    generator = np.random.default_rng(3)
    patients = np.repeat([f"p{k}" for k in range(30)], 2)
    positive = np.repeat(generator.integers(0, 2, 30), 2)
    fold, count = calibration._folds(positive, patients)
    assert count == 5
    for turn in range(count):
        assert not set(patients[fold == turn]) & set(patients[fold != turn])
        assert set(positive[fold == turn]) == {0, 1}
    order = generator.permutation(60)
    again, _ = calibration._folds(positive[order], patients[order])
    assert {len(set(again[patients[order] == p])) for p in patients} == {1}


def test_the_same_images_give_the_same_numbers():
    logits, labels = _binary(120, seed=7)
    assert fit_calibration(logits[:, None], labels, BINARY) == fit_calibration(
        logits[:, None], labels, BINARY
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
    fit = fit_calibration(np.array(logits, float)[:, None], np.array(labels, int), BINARY)
    assert (fit.temperature, fit.shift, fit.method) == (1.0, (), "none")
    assert word in fit.note


def test_logits_against_the_truth_are_reported():
    logits, labels = _binary(200, seed=1)
    fit = fit_calibration(-4 * logits[:, None], labels, BINARY, "temperature")
    assert fit.temperature > 5
    assert "say nothing" in fit.note


def test_wrong_input_is_refused():
    with pytest.raises(UsageError, match="finite"):
        fit_calibration(np.array([[np.nan], [1.0]]), np.array([0, 1]), BINARY)
    with pytest.raises(UsageError, match="has columns"):
        fit_calibration(np.zeros((2, 3)), np.array([0, 1]), GRADES)
    with pytest.raises(UsageError, match="labels must lie"):
        fit_calibration(np.zeros((2, 5)), np.array([0, 5]), GRADES)
    with pytest.raises(UsageError, match="don't fit"):
        fit_calibration(np.zeros((3, 1)), np.array([0, 1]), BINARY)
