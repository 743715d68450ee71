"""From a split's answers to the Evaluation: every figure with its interval, its counts, its method."""

import math

import numpy as np
from numpy.typing import NDArray

from data_schemas.card import Evaluation, Interval, OperatingPoint
from data_schemas.dataset import DatasetInfo
from pipeline.evaluate import statistics
from pipeline.evaluate.answers import LabelAnswers, SplitAnswers, without
from pipeline.evaluate.bootstrap import patient_bootstrap, plain_interval
from pipeline.evaluate.measure_calibration import calibration_figures, prevalence_figures
from pipeline.evaluate.statistics import AucInterval

NEAR = 1e-4
"""Answers this close to a threshold may turn over in another runtime; they are counted."""


def measure(
    answers: SplitAnswers,
    info: DatasetInfo,
    package_sha256: str,
    copies: NDArray[np.bool_] | None = None,
    prevalence: float | None = None,
) -> Evaluation:
    """Return the figures of a split.

    Keys of ``statistics``: ``auc/LABEL`` (DeLong; of the positive classes against the rest),
    ``sensitivity/LABEL`` and ``specificity/LABEL`` at the frozen operating point,
    ``sensitivity_NAME/LABEL`` and ``specificity_NAME/LABEL`` at further ones, ``accuracy/LABEL``, ``brier/LABEL``, ``kappa/LABEL`` of grades, calibration as
    :func:`~pipeline.evaluate.measure_calibration.calibration_figures` says, where an operating point
    has two thresholds ``indeterminate/LABEL`` and of the others ``risk/LABEL``, and ``auc/official``
    and ``accuracy/official`` as MedMNIST scores them. What the split doesn't define is ``None`` with a
    note. A label's figures are of the images whose label is known. Intervals take the images of one
    patient together: those of areas by their clustered variance, those of proportions by a design effect.

    Parameters
    ----------
    copies
        Which images of the split have copies in other splits, [N]; ``None``: nobody has looked. If
        there are any, ``auc_without_copies/...`` and ``accuracy_without_copies/...`` stand beside
        each label's and the official figures.
    prevalence
        Of the primary label where the images are from, if somebody knows it.
    """
    found: dict[str, Interval] = {}
    notes: list[str] = []
    scales = {label.name for label in info.labels if label.kind == "ordinal"}
    for label in answers.labels:
        found |= _of_label(label, answers, notes, ordinal=label.label in scales)
    found |= _official(answers, notes)
    found |= _without_copies(answers, copies, notes)
    rows = prevalence_figures(answers, prevalence, notes)
    notes += _left_out(answers)
    patients = int(np.unique(answers.patients).size)
    if patients < answers.indices.size:
        notes.append(
            f"{answers.indices.size} images of {patients} patients: intervals take the images of one "
            "patient together"
        )
    notes.append(f"scored through {answers.runtime}")
    refused = sum(info.refused.values())
    if refused:
        reasons = ", ".join(f"{code} {count}" for code, count in sorted(info.refused.items()))
        notes.append(f"{refused} files of the source never reached a split: {reasons}")
    return Evaluation(
        dataset_sha256=info.content_sha256,
        package_sha256=package_sha256,
        split=answers.split,
        images=int(answers.indices.size),
        patients=patients,
        unlabelled=answers.unlabelled,
        statistics=found,
        confusion={
            label.label: tuple(
                tuple(int(count) for count in row)
                for row in statistics.confusion(
                    label.truth, label.answer, len(label.output.classes)
                )
            )
            for label in answers.labels
        },
        prevalence=rows,
        notes=tuple(notes),
    )


def _of_label(
    answers: LabelAnswers, split: SplitAnswers, notes: list[str], *, ordinal: bool
) -> dict[str, Interval]:
    name = answers.label
    whose = split.patients[answers.rows]
    area = statistics.delong(answers.positive, answers.probability, patients=whose)
    found = {f"auc/{name}": _area(f"auc/{name}", area, notes)}
    found |= _at_operating_point(answers, whose, notes)
    found[f"accuracy/{name}"] = share_right(answers, whose)
    values = answers.classes if answers.exclusive else answers.probability
    truth = answers.truth if answers.exclusive else answers.positive
    found[f"brier/{name}"] = _plain(statistics.brier(truth, values), "mean squared difference")
    found |= calibration_figures(answers, split, notes)
    if ordinal:
        found[f"kappa/{name}"] = _kappa(answers, whose)
    return found


def share_right(answers: LabelAnswers, patients: NDArray[np.str_]) -> Interval:
    """Return the share of right answers; ``patients`` [N] are those of the label's images."""
    right = answers.truth == answers.answer
    return statistics.share(right, answers.for_truth, patients)


def _kappa(answers: LabelAnswers, patients: NDArray[np.str_]) -> Interval:
    """Return Cohen's kappa with quadratic weights, of patients resampled."""
    classes = len(answers.output.classes)
    cells = answers.truth * classes + answers.answer

    def of(weights: NDArray[np.int64]) -> float:
        counts = np.bincount(cells, weights=weights, minlength=classes * classes)
        return statistics.quadratic_kappa(counts.reshape(classes, classes).astype(np.int64))

    found = plain_interval(of(np.ones(cells.size, np.int64)), of, patients)
    return found.model_copy(update={"method": f"quadratic weights; {found.method}"})


def _without_copies(
    answers: SplitAnswers, copies: NDArray[np.bool_] | None, notes: list[str]
) -> dict[str, Interval]:
    if copies is None:
        notes.append("not known whether images have copies in other splits: hilum leaks DATASET")
        return {}
    count = int(copies.sum())
    if not count:
        return {}
    here = f"{count} of {copies.size} images have a copy in another split (leaks.json)"
    if count == copies.size:
        notes.append(f"{here}: nothing is left without them")
        return {}
    notes.append(f"{here}: figures without them are called without_copies")
    fewer = without(answers, copies)
    found: dict[str, Interval] = {}
    for label in fewer.labels:
        whose = fewer.patients[label.rows]
        area = statistics.delong(label.positive, label.probability, patients=whose)
        found[f"auc/{label.label}"] = _area(f"auc_without_copies/{label.label}", area, notes)
        found[f"accuracy/{label.label}"] = share_right(label, whose)
    found |= _official(fewer, notes)
    return {key.replace("/", "_without_copies/", 1): value for key, value in found.items()}


def _left_out(answers: SplitAnswers) -> list[str]:
    notes = []
    if answers.unlabelled:
        notes.append(
            f"{answers.unlabelled} images of the split have none of the model's labels: left out"
        )
    notes += [
        f"{label.label} is not known of {unknown} images: left out of its figures"
        for label in answers.labels
        for unknown in (answers.indices.size - label.rows.size,)
        if unknown
    ]
    return notes


def _at_operating_point(
    answers: LabelAnswers, patients: NDArray[np.str_], notes: list[str]
) -> dict[str, Interval]:
    point, name = answers.point, answers.label
    if point is None:
        notes.append(f"{name} has no operating point: no sensitivity, no specificity")
        return {}
    found = {f"{key}/{name}": interval for key, interval in _at(answers, point, patients).items()}
    for key, interval in found.items():
        if interval.value is None:
            notes.append(f"{key}: undefined: a class is missing")
    for other in answers.points:
        if other.name != point.name:
            more = _at(answers, other, patients)
            found |= {f"{key}_{other.name}/{name}": value for key, value in more.items()}
    if point.low < point.high:
        found |= {f"{key}/{name}": value for key, value in _band(answers, point, patients).items()}
    near = int((np.abs(answers.probability - point.high) <= NEAR).sum())
    if near:
        notes.append(f"{name}: {near} images lie within {NEAR:g} of the threshold")
    return found


def _at(
    answers: LabelAnswers, point: OperatingPoint, patients: NDArray[np.str_]
) -> dict[str, Interval]:
    called, scores = answers.probability >= point.high, answers.probability
    ill, sound = answers.positive == 1, answers.positive == 0
    return {
        "sensitivity": statistics.share(called[ill], scores[ill], patients[ill]),
        "specificity": statistics.share(~called[sound], scores[sound], patients[sound]),
    }


def _band(
    answers: LabelAnswers, point: OperatingPoint, patients: NDArray[np.str_]
) -> dict[str, Interval]:
    """Return how many stay without an answer, and how many of the others are wrong."""
    called, spared = answers.probability >= point.high, answers.probability < point.low
    diseased, between = answers.positive == 1, ~called & ~spared
    wrong = (called & ~diseased) | (spared & diseased)

    def among(hits: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> Interval:
        return statistics.share(hits[chosen], answers.probability[chosen], patients[chosen])

    return {
        "indeterminate": among(between, np.ones_like(between)),
        "risk": among(wrong, ~between),
        "indeterminate_diseased": among(diseased, between),
    }


def _official(split: SplitAnswers, notes: list[str]) -> dict[str, Interval]:
    only = split.labels[0]
    if len(split.labels) == 1:
        whose = split.patients[only.rows]
        if only.exclusive and only.classes.shape[1] > 2:
            area = patient_bootstrap(only.truth, only.classes, whose)
            columns = only.classes
        else:
            # the last column, whatever the card calls positive: BreastMNIST's class 1 is "normal"
            columns = only.classes[:, -1]
            area = statistics.delong(only.truth, columns, patients=whose)
        right = statistics.official_right(only.truth, columns)
        return {
            "auc/official": _area("auc/official", area, notes),
            "accuracy/official": statistics.share(right, only.for_truth, whose),
        }
    # each label over the images of which it is known; where all are, this is MedMNIST's own mean
    last_columns = [(label.truth, label.classes[:, -1]) for label in split.labels]
    mean = f"mean over {len(split.labels)} labels"
    area_value = float(np.mean([statistics.official_auc(*one) for one in last_columns]))
    right_value = float(np.mean([statistics.official_accuracy(*one) for one in last_columns]))
    if math.isnan(area_value):
        notes.append("auc/official: undefined: a label has one class only in this split")
    return {
        "auc/official": _plain(area_value, mean),
        "accuracy/official": _plain(right_value, mean),
    }


def _area(key: str, area: AucInterval, notes: list[str]) -> Interval:
    if area.note:
        notes.append(f"{key}: {area.note}")
    return area.known()


def _plain(value: float, method: str) -> Interval:
    return Interval(value=statistics.known(value), method=method)
