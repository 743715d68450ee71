"""All folds of a cross-validation together: each image answered by the network that never saw it.

The folds' networks differ, and so may the meaning of their probabilities: an area under the curve
over all folds is therefore a stricter figure than the mean of the folds' own areas. Intervals
take the images of one patient together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_schemas.card import Card, Interval
from data_schemas.dataset import DatasetInfo
from data_schemas.errors import DatasetError
from data_schemas.files import replacing
from pipeline.evaluate.answers import LabelAnswers, SplitAnswers, answers_of
from pipeline.evaluate.bootstrap import patient_bootstrap, plain_interval
from pipeline.evaluate.measure import share_right
from pipeline.evaluate.reliability import calibration_error
from pipeline.evaluate.statistics import (
    auc,
    confusion,
    delong,
    macro_auc,
    quadratic_kappa,
    share,
)
from pipeline.ingest.store import Dataset
from pipeline.model import decision
from pipeline.tracking.finding import download

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

GRADES_BY = {
    "kappa": "the grade that the model answers (decision.classes_of)",
    "kappa_median": "the median grade: as many steps of the scale as are likelier than not",
    "kappa_likeliest": "the likeliest grade",
}
"""Keys of the weighted kappas, and which grade each compares with the truth. The first is the
headline: it stands before anything was measured, and the others only lie beside it."""


@dataclass(frozen=True, slots=True)
class FoldAnswers:
    """The answers of one fold's network on its test images, and where they come from."""

    number: int  # from 0
    run_id: str
    answers: SplitAnswers
    sources: tuple[str, ...]  # SHA-256 of each image's file, [N]
    best_epoch: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Question:
    """One yes-or-no question: a binary label, a step of a scale, the positive classes of a label."""

    name: str
    positive: Ints  # 1 where the truth is yes, [N]
    probability: Floats  # calibrated, [N]
    patients: NDArray[np.str_]  # [N]


def kept_answers(uri: str, run_id: str, dataset: Dataset, scratch: Path) -> SplitAnswers:
    """Read back what a measured run answered on ``dataset``'s test split.

    Raises
    ------
    DatasetError
        If its predictions are not of these images.
    TrackingError
        If the run was not measured.
    """
    card = Card.read_json(download(uri, run_id, "package/card.json", scratch))
    table = pq.read_table(download(uri, run_id, "evaluation/predictions.parquet", scratch))
    everything = np.asarray(dataset.indices("test"), np.int64)
    truths = [dataset.labels(output.label)[everything] for output in card.outputs]
    indices = everything[(np.stack(truths) >= 0).any(axis=0)]
    expected = dataset.manifest.column("source_sha256").take(pa.array(indices)).to_pylist()
    if table["source_sha256"].to_pylist() != expected:
        raise DatasetError(
            f"the predictions of run {run_id} are not of this fold's test images",
            where=dataset.folder,
            mend="cross-validate anew",
        )
    logits = np.array(table["logits"].to_pylist(), np.float32)
    return SplitAnswers(
        split="test",
        indices=indices,
        patients=np.asarray(dataset.patients())[indices].astype(np.str_),
        logits=logits,
        verdicts=decision.verdicts(card, logits),
        labels=tuple(
            answers_of(card, output, np.asarray(dataset.labels(output.label))[indices], logits)
            for output in card.outputs
        ),
        primary=card.primary,
        runtime="",
    )


def together(folds: Sequence[FoldAnswers], label: str) -> tuple[LabelAnswers, NDArray[np.str_]]:
    """Return one label's answers of all folds, and the patients of these images.

    The output is the first fold's: temperatures and thresholds are each fold's own.
    """
    parts = [_of(fold, label) for fold in folds]
    arrays = ("truth", "positive", "probability", "uncalibrated", "classes", "answer")
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays
    }
    rows = np.arange(len(joined["truth"]))
    patients = np.concatenate(
        [fold.answers.patients[part.rows] for fold, part in zip(folds, parts, strict=True)]
    )
    return LabelAnswers(parts[0].output, point=None, points=(), rows=rows, **joined), patients


def questions(label: LabelAnswers, patients: NDArray[np.str_], kind: str) -> list[Question]:
    """Return every positive definition of a label: of an ordinal one, each step ``LABEL_geK``."""
    if kind != "ordinal":
        return [Question(label.label, label.positive, label.probability, patients)]
    return [
        Question(
            f"{label.label}_ge{step}",
            (label.truth >= step).astype(np.int64),
            np.clip(label.classes[:, step:].sum(axis=1), 0.0, 1.0),
            patients,
        )
        for step in range(1, label.classes.shape[1])
    ]


def pooled_statistics(folds: Sequence[FoldAnswers], info: DatasetInfo) -> dict[str, Interval]:
    """Return the figures of all folds together, with intervals that take a patient's images together.

    Keys: ``auc/NAME`` and ``ece/NAME`` (15 bins of equal mass) of every question,
    ``accuracy/LABEL``, ``auc_macro/LABEL`` (mean of one class against the rest) of a label of
    classes, the kappas of :data:`GRADES_BY` of an ordinal one, and of the primary label
    ``sensitivity`` and ``specificity`` at each fold's own operating point.
    """
    found: dict[str, Interval] = {}
    kinds = {label.name: label.kind for label in info.labels}
    for first in folds[0].answers.labels:
        label, patients = together(folds, first.label)
        for question in questions(label, patients, kinds[label.label]):
            area = delong(question.positive, question.probability, patients=patients)
            found[f"auc/{question.name}"] = area.known()
            found[f"ece/{question.name}"] = calibration_error(
                question.positive, question.probability, patients
            )
        found[f"accuracy/{label.label}"] = share_right(label, patients)
        if label.exclusive:
            macro = patient_bootstrap(label.truth, label.classes, patients)
            found[f"auc_macro/{label.label}"] = macro.known()
        if kinds[label.label] == "ordinal":
            found |= _kappas(label, patients)
    return found | _verdicts(folds)


def fold_row(fold: FoldAnswers, info: DatasetInfo) -> dict[str, float]:
    """Return one fold's figures without intervals, named as those of :func:`pooled_statistics`."""
    row: dict[str, float] = {
        "images": float(fold.answers.indices.size),
        "patients": float(np.unique(fold.answers.patients).size),
    }
    kinds = {label.name: label.kind for label in info.labels}
    for label in fold.answers.labels:
        patients = fold.answers.patients[label.rows]
        for question in questions(label, patients, kinds[label.label]):
            row[f"auc/{question.name}"] = auc(question.positive, question.probability)
        row[f"accuracy/{label.label}"] = float(np.mean(label.truth == label.answer))
        if label.exclusive:
            row[f"auc_macro/{label.label}"] = macro_auc(label.truth, label.classes)
        if kinds[label.label] == "ordinal":
            table = confusion(label.truth, label.answer, label.classes.shape[1])
            row[f"kappa/{label.label}"] = quadratic_kappa(table)
    return row


def grades(label: LabelAnswers) -> dict[str, Ints]:
    """Return the grade [N] of every image, by each of :data:`GRADES_BY`."""
    # P(grade >= 1), P(grade >= 2) ...
    later = np.cumsum(label.classes[:, ::-1], axis=1)[:, ::-1][:, 1:]
    return {
        "kappa": label.answer,
        "kappa_median": (later > 0.5).sum(axis=1).astype(np.int64),
        "kappa_likeliest": label.classes.argmax(axis=1).astype(np.int64),
    }


def write_out_of_fold(folds: Sequence[FoldAnswers], path: Path) -> None:
    """Write one row per image: fold, pseudonym, truth, probabilities, answer. No names, no paths.

    Where a label is not known, its truth, probability and answer are null.
    """
    tables = []
    for fold in folds:
        size = fold.answers.indices.size
        columns: dict[str, object] = {
            "fold": pa.array(np.full(size, fold.number), pa.int64()),
            "run": pa.array([fold.run_id] * size, pa.string()),
            "source_sha256": pa.array(list(fold.sources), pa.string()),
            "patient": pa.array(fold.answers.patients.tolist(), pa.string()),
            "verdict": pa.array(fold.answers.verdicts, pa.string()),
        }
        for label in fold.answers.labels:
            place = np.full(size, -1, np.int64)
            place[label.rows] = np.arange(label.rows.size)
            for name in ("truth", "answer", "probability"):
                own = pa.array(getattr(label, name))
                columns[f"{name}_{label.label}"] = own.take(pa.array(place, mask=place < 0))
            shares = pa.array(label.classes.tolist(), pa.list_(pa.float64()))
            columns[f"classes_{label.label}"] = shares.take(pa.array(place, mask=place < 0))
        tables.append(pa.table(columns))
    whole = pa.concat_tables(tables).replace_schema_metadata({"schema_version": "1"})
    with replacing(path) as part:
        pq.write_table(whole, part)


def _kappas(label: LabelAnswers, patients: NDArray[np.str_]) -> dict[str, Interval]:
    count = label.classes.shape[1]
    found = {}
    for key, answer in grades(label).items():
        cells = label.truth * count + answer

        def kappa(weights: Ints, cells: Ints = cells) -> float:
            counted = np.bincount(cells, weights=weights, minlength=count * count)
            return quadratic_kappa(counted.astype(np.int64).reshape(count, count))

        found[f"{key}/{label.label}"] = plain_interval(
            kappa(np.ones(cells.size, np.int64)), kappa, patients
        )
    return found


def _verdicts(folds: Sequence[FoldAnswers]) -> dict[str, Interval]:
    name = folds[0].answers.primary
    verdicts = [np.array(one.answers.verdicts, np.str_)[_of(one, name).rows] for one in folds]
    called = np.concatenate(verdicts) == "positive"
    label, patients = together(folds, name)
    found = {}
    for key, among, said in (
        ("sensitivity", label.positive == 1, called),
        ("specificity", label.positive == 0, ~called),
    ):
        found[f"{key}/{name}"] = share(said[among], label.probability[among], patients[among])
    return found


def _of(fold: FoldAnswers, label: str) -> LabelAnswers:
    return next(found for found in fold.answers.labels if found.label == label)
