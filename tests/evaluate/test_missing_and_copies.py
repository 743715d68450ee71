"""Evaluation leaves out what isn't known, and gives figures without copies beside the official ones."""

import numpy as np
import pytest

from data_schemas.dataset import DatasetInfo
from pipeline.evaluate import statistics
from pipeline.evaluate.answers import SplitAnswers, answers_of, without
from pipeline.evaluate.measure import measure
from tests.model import tiny_network as tiny

N = 60
BINARY = tiny.BINARY
OTHER = tiny.BINARY.model_copy(update={"label": "other", "columns": (1,)})


def answers(truths: dict[str, np.ndarray], seed=0) -> SplitAnswers:
    outputs = [BINARY, OTHER][: len(truths)]
    points = tuple(tiny.point(output.label, 0.5, 0.5) for output in outputs)
    card = tiny.card(outputs=tuple(outputs), points=points)
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(N, len(outputs))).astype(np.float32)
    for column, truth in enumerate(truths.values()):
        logits[:, column] += truth
    return SplitAnswers(
        split="test",
        indices=np.arange(N),
        patients=np.array([f"p{k // 2}" for k in range(N)]),
        logits=logits,
        verdicts=["positive"] * N,
        labels=tuple(
            answers_of(card, output, truth, logits)
            for output, truth in zip(outputs, truths.values(), strict=True)
        ),
        primary=outputs[0].label,
        runtime="test",
        unlabelled=3,
    )


def truth_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, N)


@pytest.fixture
def info() -> DatasetInfo:
    return DatasetInfo(
        name="x", hilum_version="0", contract_name="c", contract_sha256="0" * 64, size=8,
        channels=3, images=N, patients=N // 2, files_read=N, refused={}, splits={"test": N},
        labels=(), shards=(), content_sha256="0" * 64,
    )  # fmt: skip


def test_each_label_is_measured_where_it_is_known(info):
    first, second = truth_of(1), truth_of(2)
    first[:20] = -1
    split = answers({"referable": first, "other": second})
    found = measure(split, info, "0" * 64, np.zeros(N, bool))
    one, two = split.labels
    assert (one.truth.size, two.truth.size) == (40, N)
    assert found.statistics["auc/referable"].value == statistics.auc(first[20:], one.probability)
    assert found.statistics["accuracy/referable"].denominator == 40
    assert found.statistics["accuracy/other"].denominator == N
    areas = [found.statistics[f"auc/{name}"].value for name in ("referable", "other")]
    assert found.statistics["auc/official"].value == pytest.approx(np.mean(areas))
    assert sum(map(sum, found.confusion["referable"])) == 40
    assert found.unlabelled == 3
    assert any("3 images of the split have none" in note for note in found.notes)
    assert any("referable is not known of 20 images" in note for note in found.notes)


def test_figures_without_copies_stand_beside_the_official_ones(info):
    truth = truth_of(1)
    truth[5] = -1
    split = answers({"referable": truth})
    copies = np.zeros(N, bool)
    copies[[2, 5, 9, 31]] = True
    found = measure(split, info, "0" * 64, copies).statistics
    keep = ~copies & (truth >= 0)
    probability = np.full(N, np.nan)
    probability[split.labels[0].rows] = split.labels[0].probability
    expected = statistics.auc(truth[keep], probability[keep])
    assert found["auc_without_copies/referable"].value == pytest.approx(expected)
    assert found["auc_without_copies/official"].value == pytest.approx(expected)
    assert found["accuracy_without_copies/official"].denominator == int(keep.sum()) == 56
    assert found["accuracy/official"].denominator == N - 1
    notes = measure(split, info, "0" * 64, copies).notes
    assert any("4 of 60 images have a copy in another split" in note for note in notes)
    none = measure(split, info, "0" * 64, np.zeros(N, bool))
    assert not any("copies" in key for key in none.statistics)
    assert not any("cop" in note for note in none.notes)
    unasked = measure(split, info, "0" * 64)
    assert any("hilum leaks" in note for note in unasked.notes)


def test_without_takes_the_same_images_from_everything():
    split = answers({"referable": truth_of(1), "other": truth_of(2)})
    left_out = np.arange(N) % 3 == 0
    fewer = without(split, left_out)
    keep = np.flatnonzero(~left_out)
    assert (fewer.indices == keep).all()
    assert (fewer.patients == split.patients[keep]).all()
    for label, whole in zip(fewer.labels, split.labels, strict=True):
        assert (label.truth == whole.truth[keep]).all()
        assert (label.rows == np.arange(keep.size)).all()
