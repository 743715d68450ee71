"""Figures of classes, of several labels, and of splits that don't define them."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from pipeline.evaluate import statistics, tables
from pipeline.evaluate.answers import SplitAnswers, answers_of
from pipeline.evaluate.evaluate import metrics_of
from pipeline.evaluate.figures import all_figures
from pipeline.evaluate.measure import measure
from pipeline.model import decision
from tests.model import tiny_network as tiny

INFO = SimpleNamespace(content_sha256="d" * 64, refused={}, labels=())


def _split(card, truths, logits, patients=None):
    count = len(logits)
    return SplitAnswers(
        split="test",
        indices=np.arange(count),
        patients=np.array([f"p{k}" for k in range(count)] if patients is None else patients),
        logits=logits,
        verdicts=decision.verdicts(card, logits),
        labels=tuple(
            answers_of(card, output, truth, logits)
            for output, truth in zip(card.outputs, truths, strict=True)
        ),
        primary=card.primary,
        runtime="a runtime",
    )


def _grades(seed=0, count=120):
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 5, count)
    logits = generator.normal(size=(count, 5)) + 1.5 * np.eye(5)[truth]
    return truth, logits.astype(np.float32)


def test_classes_have_official_and_positive_figures():
    truth, logits = _grades()
    card = tiny.card(outputs=(tiny.GRADES,))
    answers = _split(card, [truth], logits)
    found = measure(answers, INFO, "p" * 64)
    shares = decision.probabilities(card, logits)["dr_grade"]
    assert found.statistics["auc/official"].value == statistics.macro_auc(truth, shares)
    right = int((np.argmax(shares, 1) == truth).sum())
    assert found.statistics["accuracy/official"].numerator == right
    assert found.statistics["accuracy/dr_grade"].numerator == right
    referable = (truth >= 2).astype(int)
    assert found.statistics["auc/dr_grade"].value == statistics.auc(referable, shares[:, 2:].sum(1))
    assert len(found.confusion["dr_grade"]) == 5
    assert sum(map(sum, found.confusion["dr_grade"])) == 120
    # two thresholds: the band between them is counted
    assert found.statistics["indeterminate/dr_grade"].numerator == sum(
        verdict == "indeterminate" for verdict in answers.verdicts
    )
    metrics = metrics_of(found, "dr_grade")
    assert metrics["test/auc"] == found.statistics["auc/dr_grade"].value
    assert metrics["test/auc_official"] == found.statistics["auc/official"].value


def test_several_labels_are_measured_each_and_in_the_mean():
    generator = np.random.default_rng(1)
    truths = [generator.integers(0, 2, 80) for _ in range(2)]
    logits = (np.stack(truths, 1) * 2 - 1 + generator.normal(size=(80, 2))).astype(np.float32)
    found = measure(_split(tiny.card(), truths, logits), INFO, "").statistics
    mean = np.mean([found["auc/referable"].value, found["auc/exudates"].value])
    assert found["auc/official"].value == pytest.approx(mean)
    metrics = metrics_of(measure(_split(tiny.card(), truths, logits), INFO, ""), "referable")
    # other labels' figures stand in a table: a page of a hundred metrics is read by nobody
    assert not any("exudates" in name for name in metrics)
    assert {"test/auc", "test/auc_lo", "test/auc_official"} <= set(metrics)
    assert len(metrics) <= 30


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_class_is_none_with_a_note(missing):
    truth = np.full(10, 1 - missing)
    logits = np.linspace(-2, 2, 10, dtype=np.float32)[:, None]
    card = tiny.card(outputs=(tiny.BINARY,))
    answers = _split(card, [truth], logits)
    found = measure(answers, INFO, "")
    lost = ("specificity", "sensitivity")[missing]
    assert found.statistics["auc/referable"].value is None
    assert found.statistics[f"{lost}/referable"].value is None
    assert found.statistics["auc/official"].value is None
    assert any("class is missing" in note for note in found.notes)
    metrics = metrics_of(found, "referable")
    assert metrics["test/undefined"] == 5
    assert all(np.isfinite(value) for value in metrics.values())
    assert len(all_figures(answers, found)) == 4


def test_a_missing_grade_is_none_not_a_mean_of_the_rest():
    truth, logits = _grades()
    chosen = truth != 4
    card = tiny.card(outputs=(tiny.GRADES,))
    found = measure(_split(card, [truth[chosen]], logits[chosen]), INFO, "")
    assert found.statistics["auc/official"].value is None
    assert found.statistics["auc/dr_grade"].value is not None
    assert any(note.startswith("auc/official: undefined") for note in found.notes)


def test_breast_s_positive_class_is_zero_but_the_official_auc_is_of_the_last_column():
    """BreastMNIST: 0 is malignant. The official score looks at class 1, the verdict at class 0."""
    generator = np.random.default_rng(4)
    truth = generator.integers(0, 2, 60)
    logits = (truth * 2 - 1 + generator.normal(size=60)).astype(np.float32)[:, None]
    output = tiny.BINARY.model_copy(update={"positive_classes": (0,)})
    card = tiny.card(outputs=(output,), points=(tiny.point("referable", 0.5, 0.5),))
    answers = _split(card, [truth], logits)
    found = measure(answers, INFO, "")
    assert found.statistics["auc/referable"].value == pytest.approx(
        found.statistics["auc/official"].value
    )
    called = decision.positive_probability(card, "referable", logits) >= 0.5
    assert found.statistics["sensitivity/referable"].numerator == int((called & (truth == 0)).sum())
    assert np.array_equal(answers.labels[0].answer, np.where(called, 0, 1))


def test_near_the_threshold_is_counted():
    card = tiny.card(outputs=(tiny.BINARY,), points=(tiny.point("referable", 0.5, 0.5),))
    logits = np.array([[0.0], [0.0001], [1.0], [-1.0]], np.float32)
    found = measure(_split(card, [np.array([0, 1, 1, 0])], logits), INFO, "")
    assert any("2 images lie within 0.0001" in note for note in found.notes)


def test_of_many_sites_the_largest_have_a_row_each_and_no_image_is_left_out():
    truth, logits = _grades()
    answers = _split(tiny.card(outputs=(tiny.GRADES,)), [truth], logits)
    # sites 0 to 4 have 11 images each, 5 to 24 two, 25 to 49 one
    sites = [f"s{k % 5:02}" for k in range(55)]
    sites += [f"s{5 + k % 20:02}" for k in range(40)]
    sites += [f"s{25 + k:02}" for k in range(25)]
    constant = pa.array(["x"] * 120)
    manifest = pa.table(dict.fromkeys(tables.GROUPS, constant) | {"site": pa.array(sites)})
    found = tables.subgroups(answers, SimpleNamespace(manifest=manifest))
    images = {row["group"]: row["images"] for row in map(dict, _rows(found))}
    assert [name for name in images if name != "all"][:5] == [f"site: s{k:02}" for k in range(5)]
    assert images.pop("all") == 120
    assert images.pop("site: 30 others") == 25 + 2 * 5
    assert len(images) == tables.MOST_LEVELS
    assert sum(images.values()) == 55 + 2 * 15


def _rows(table):
    return [zip(table.columns, row, strict=True) for row in table.rows]
