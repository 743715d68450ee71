"""All folds together: pooled figures by hand, intervals by patient, the table of answers."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_schemas.card import Card, OperatingPoint, Output
from data_schemas.dataset import DatasetInfo, Label
from pipeline.evaluate import out_of_fold_figures
from pipeline.evaluate.answers import SplitAnswers, answers_of
from pipeline.evaluate.out_of_fold import (
    FoldAnswers,
    fold_row,
    grades,
    pooled_statistics,
    questions,
    together,
    write_out_of_fold,
)
from pipeline.model import decision

CLASSES = ("0", "1", "2")


def info(name="grade", kind="ordinal", classes=CLASSES):
    label = Label(name=name, kind=kind, classes=classes, counts=(0,) * len(classes))
    return DatasetInfo(
        name="d", hilum_version="0", contract_name="c", contract_sha256="0" * 64, size=8, channels=3,
        images=0, patients=0, files_read=0, refused={}, splits={}, labels=(label,), shards=(),
        content_sha256="0" * 64,
    )  # fmt: skip


def fold(number, truth, probabilities, patients, high=0.5):
    """A fold whose network gave these probabilities of three grades, [N, 3]."""
    output = Output(label="grade", classes=CLASSES, columns=(0, 1, 2), positive_classes=(1, 2))
    point = OperatingPoint(
        label="grade", rule="youden", low=high, high=high, images=1, positives=1, sensitivity=1, specificity=1,
    )  # fmt: skip
    card = Card(
        name="c", dataset_name="d", dataset_sha256="0" * 64, contract_name="c", contract_sha256="0" * 64,
        plan_sha256="0" * 64, backbone="b", parameters=0, size=8, channels=3, evidence_stride=8,
        outputs=(output,), primary="grade", operating_points=(point,), onnx_max_logit_difference=0,
    )  # fmt: skip
    logits = np.log(np.asarray(probabilities, float)).astype(np.float32)
    truth = np.asarray(truth)
    answers = SplitAnswers(
        split="test",
        indices=np.arange(len(truth)),
        patients=np.asarray(patients, np.str_),
        logits=logits,
        verdicts=decision.verdicts(card, logits),
        labels=(answers_of(card, output, truth, logits),),
        primary="grade",
        runtime="",
    )
    sources = tuple(f"{number}-{place}" for place in range(len(truth)))
    return FoldAnswers(number, f"run{number}", answers, sources, 3, 60.0)


P = {0: (0.7, 0.2, 0.1), 1: (0.2, 0.6, 0.2), 2: (0.1, 0.2, 0.7), "01": (0.4, 0.35, 0.25)}


def two_folds():
    one = fold(0, [0, 1, 2, 0], [P[0], P[1], P[2], P["01"]], ["a", "b", "c", "a"])
    other = fold(1, [2, 1, 0], [P[2], P[0], P[1]], ["d", "e", "f"])
    return [one, other]


def test_pooled_figures_by_hand():
    found = pooled_statistics(two_folds(), info())
    # referable (2): 0.7, 0.7 against 0.1, 0.2, 0.25, 0.1, 0.2: fully apart
    assert found["auc/grade_ge2"].value == 1.0
    # any (1 or 2): positives 0.8, 0.9, 0.9, 0.3 against 0.3, 0.6, 0.8: 9.0 + 2 ties of a half, of 12
    wins = sum((p > n) + 0.5 * (p == n) for p in (0.8, 0.9, 0.9, 0.3) for n in (0.3, 0.6, 0.8))
    assert found["auc/grade_ge1"].value == pytest.approx(wins / 12)
    # likeliest grades: 0 1 2 0 | 2 0 1 against 0 1 2 0 | 2 1 0: two of seven are one step off
    truth, answer = [0, 1, 2, 0, 2, 1, 0], [0, 1, 2, 0, 2, 0, 1]
    seen = sum((t - a) ** 2 for t, a in zip(truth, answer, strict=True)) / 7
    chance = sum((t - a) ** 2 for t in truth for a in answer) / 49
    assert found["kappa/grade"].value == pytest.approx(1 - seen / chance)
    assert found["kappa_likeliest/grade"].value == pytest.approx(1 - seen / chance)
    # the fourth image's median grade is 1: P(1 or 2) is 0.6
    answer[3] = 1
    seen = sum((t - a) ** 2 for t, a in zip(truth, answer, strict=True)) / 7
    chance = sum((t - a) ** 2 for t in truth for a in answer) / 49
    assert found["kappa_median/grade"].value == pytest.approx(1 - seen / chance)
    # called at P(1 or 2) >= 0.5, of four positive images three, of three negative two
    hit, spared = found["sensitivity/grade"], found["specificity/grade"]
    assert (hit.numerator, hit.denominator) == (3, 4)
    assert (spared.numerator, spared.denominator) == (1, 3)
    assert found["accuracy/grade"].value == pytest.approx(5 / 7)


def test_each_fold_is_measured_alone_and_its_missing_class_is_no_zero():
    one, other = two_folds()
    assert fold_row(one, info())["auc/grade_ge1"] == 1.0
    assert fold_row(one, info())["patients"] == 3
    alone = fold(2, [0, 0], [P[0], P[1]], ["x", "y"])
    assert math.isnan(fold_row(alone, info())["auc/grade_ge2"])
    assert fold_row(other, info())["kappa/grade"] == pytest.approx(
        1 - (2 / 3) / (sum((t - a) ** 2 for t in (2, 1, 0) for a in (2, 0, 1)) / 9)
    )


def test_intervals_are_of_patients_not_of_images():
    generator = np.random.default_rng(0)
    truth = np.repeat(generator.integers(0, 3, 60), 4)
    noise = np.repeat(generator.dirichlet((1.5, 1.5, 1.5), 60), 4, axis=0)
    shares = 0.8 * noise + 0.2 * np.eye(3)[truth] + 1e-6
    shares /= shares.sum(axis=1, keepdims=True)
    four = [str(k // 4) for k in range(240)]
    by_patient = pooled_statistics([fold(0, truth, shares, four)], info())
    by_image = pooled_statistics([fold(0, truth, shares, list(map(str, range(240))))], info())

    def width(found, key):
        return found[key].high - found[key].low

    for key in ("auc/grade_ge1", "accuracy/grade", "kappa/grade"):
        # four equal images of a patient count as one: about twice as wide
        assert 1.5 < width(by_patient, key) / width(by_image, key) < 2.6, key


def test_where_every_draw_is_alike_no_interval_of_width_nought_is_told():
    truth = [0, 0, 0, 0, 1, 1, 2, 2]
    shares = [P[grade] for grade in truth]
    found = pooled_statistics([fold(0, truth, shares, list("aabbccde"))], info())
    hit = found["sensitivity/grade"]
    # four of four images, of three patients: Clopper-Pearson of 3 of 3
    assert (hit.value, hit.numerator, hit.denominator) == (1.0, 4, 4)
    assert (hit.low, hit.high) == (pytest.approx(0.025 ** (1 / 3)), 1.0)
    assert "4 images count as 3.0" in hit.method
    assert (found["kappa/grade"].value, found["kappa/grade"].low) == (1.0, None)
    assert "same" in found["kappa/grade"].method
    # two patients are ill, three are not
    apart = found["auc/grade_ge2"]
    assert (apart.value, apart.low) == (1.0, pytest.approx(0.025 ** (1 / 2)))


def test_the_calibration_error_lies_within_its_interval():
    for seed in range(8):
        generator = np.random.default_rng(seed)
        chance = generator.dirichlet((1, 1, 1), 150)
        truth = np.array([generator.choice(3, p=row) for row in chance])
        found = pooled_statistics([fold(0, truth, chance, list(map(str, range(150))))], info())
        ece = found["ece/grade_ge1"]
        assert ece.low <= ece.value <= ece.high


def test_a_threshold_is_each_folds_own():
    low = fold(0, [1, 0], [P["01"], P[0]], ["a", "b"], high=0.5)
    high = fold(1, [1, 0], [P["01"], P[0]], ["c", "d"], high=0.65)
    found = pooled_statistics([low, high], info())
    assert (found["sensitivity/grade"].numerator, found["sensitivity/grade"].denominator) == (1, 2)


def test_a_label_of_classes_has_one_question_and_a_mean_over_classes():
    found = pooled_statistics(two_folds(), info(kind="classes"))
    assert "kappa/grade" not in found
    assert {key for key in found if key.startswith("auc")} == {"auc/grade", "auc_macro/grade"}


def test_the_table_names_no_one_and_leaves_the_unknown_empty(tmp_path):
    folds = [fold(0, [0, -1, 2], [P[0], P[1], P[2]], ["a", "b", "c"]), two_folds()[1]]
    write_out_of_fold(folds, tmp_path / "p.parquet")
    table = pq.read_table(tmp_path / "p.parquet")
    assert table["truth_grade"].to_pylist() == [0, None, 2, 2, 1, 0]
    assert table["fold"].to_pylist() == [0, 0, 0, 1, 1, 1]
    assert table["classes_grade"].to_pylist()[1] is None
    assert table["classes_grade"].to_pylist()[2] == pytest.approx(P[2], abs=1e-6)
    label, patients = together(folds, "grade")
    assert list(patients) == ["a", "c", "d", "e", "f"]
    assert list(grades(label)["kappa_likeliest"]) == [0, 2, 2, 0, 1]
    assert [one.name for one in questions(label, patients, "ordinal")] == ["grade_ge1", "grade_ge2"]


def test_figures_draw_also_what_is_undefined():
    folds = [fold(0, [0, 0], [P[0], P[1]], ["x", "y"])]
    found = pooled_statistics(folds, info())
    assert found["auc/grade_ge1"].value is None
    drawn = out_of_fold_figures.fold_figures(folds, info(), found)
    assert set(drawn) == {"roc", "reliability", "confusion"}
    assert "undefined" in drawn["roc"].axes[0].get_title()
