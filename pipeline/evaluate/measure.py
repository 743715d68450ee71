"""From a split's answers to the Evaluation: every figure with its interval, its counts, its method."""

import math

import numpy as np

from data_schemas.card import Evaluation, Interval
from data_schemas.dataset import DatasetInfo
from pipeline.evaluate import statistics
from pipeline.evaluate.answers import LabelAnswers, SplitAnswers
from pipeline.evaluate.bootstrap import patient_bootstrap
from pipeline.evaluate.statistics import AucInterval

NEAR = 1e-4
"""Answers this close to a threshold may turn over in another runtime; they are counted."""


def measure(answers: SplitAnswers, info: DatasetInfo, package_sha256: str) -> Evaluation:
    """Return the figures of a split.

    Keys of ``statistics``: ``auc/LABEL`` (DeLong; of the positive classes against the rest),
    ``auc_by_patient/LABEL`` (patients resampled), ``sensitivity/LABEL`` and ``specificity/LABEL``
    at the frozen operating point, ``accuracy/LABEL``, ``brier/LABEL``, ``ece/LABEL``,
    ``indeterminate/LABEL`` where an operating point has two thresholds, and ``auc/official`` and
    ``accuracy/official`` as MedMNIST scores them. What the split doesn't define is ``None`` with a
    note.
    """
    found: dict[str, Interval] = {}
    notes: list[str] = []
    for label in answers.labels:
        found |= _of_label(label, answers, notes)
    found |= _official(answers, notes)
    patients = int(np.unique(answers.patients).size)
    if patients < answers.indices.size:
        notes.append(
            f"{answers.indices.size} images of {patients} patients: exact intervals of proportions "
            "and DeLong's count images as independent; auc_by_patient resamples patients"
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
        notes=tuple(notes),
    )


def _of_label(answers: LabelAnswers, split: SplitAnswers, notes: list[str]) -> dict[str, Interval]:
    name = answers.label
    areas = {
        f"auc/{name}": statistics.delong(answers.positive, answers.probability),
        f"auc_by_patient/{name}": patient_bootstrap(
            answers.positive, answers.probability, split.patients
        ),
    }
    found = {key: _area(key, area, notes) for key, area in areas.items()}
    found |= _at_operating_point(answers, notes)
    right = int((answers.truth == answers.answer).sum())
    found[f"accuracy/{name}"] = statistics.proportion(right, answers.truth.size)
    values = answers.classes if answers.exclusive else answers.probability
    truth = answers.truth if answers.exclusive else answers.positive
    found[f"brier/{name}"] = _plain(statistics.brier(truth, values), "mean squared difference")
    found[f"ece/{name}"] = _plain(
        statistics.expected_calibration_error(answers.positive, answers.probability),
        "10 bins of equal width",
    )
    return found


def _at_operating_point(answers: LabelAnswers, notes: list[str]) -> dict[str, Interval]:
    point, name = answers.point, answers.label
    if point is None:
        notes.append(f"{name} has no operating point: no sensitivity, no specificity")
        return {}
    called = answers.probability >= point.high
    diseased = answers.positive == 1
    found = {
        f"sensitivity/{name}": statistics.proportion(
            int((called & diseased).sum()), int(diseased.sum())
        ),
        f"specificity/{name}": statistics.proportion(
            int((~called & ~diseased).sum()), int((~diseased).sum())
        ),
    }
    for key, interval in found.items():
        if interval.value is None:
            notes.append(f"{key}: undefined: a class is missing")
    if point.low < point.high:
        between = (answers.probability >= point.low) & ~called
        found[f"indeterminate/{name}"] = statistics.proportion(int(between.sum()), between.size)
    near = int((np.abs(answers.probability - point.high) <= NEAR).sum())
    if near:
        notes.append(f"{name}: {near} images lie within {NEAR:g} of the threshold")
    return found


def _official(split: SplitAnswers, notes: list[str]) -> dict[str, Interval]:
    only = split.labels[0]
    if len(split.labels) == 1 and only.exclusive and only.classes.shape[1] > 2:
        area = patient_bootstrap(only.truth, only.classes, split.patients)
        right = statistics.official_accuracy(only.truth, only.classes)
        return {
            "auc/official": _area("auc/official", area, notes),
            "accuracy/official": statistics.proportion(
                round(right * only.truth.size), only.truth.size
            ),
        }
    if len(split.labels) == 1:
        # the last column, whatever the card calls positive: BreastMNIST's class 1 is "normal"
        last = only.classes[:, -1]
        right = statistics.official_accuracy(only.truth, last)
        return {
            "auc/official": _area("auc/official", statistics.delong(only.truth, last), notes),
            "accuracy/official": statistics.proportion(
                round(right * only.truth.size), only.truth.size
            ),
        }
    truth = np.stack([label.truth for label in split.labels], axis=1)
    columns = np.stack([label.classes[:, -1] for label in split.labels], axis=1)
    mean = f"mean over {len(split.labels)} labels"
    area_value = statistics.official_auc(truth, columns)
    if math.isnan(area_value):
        notes.append("auc/official: undefined: a label has one class only in this split")
    return {
        "auc/official": _plain(area_value, mean),
        "accuracy/official": _plain(statistics.official_accuracy(truth, columns), mean),
    }


def _area(key: str, area: AucInterval, notes: list[str]) -> Interval:
    if area.note:
        notes.append(f"{key}: {area.note}")
    return Interval(
        value=statistics.known(area.value),
        low=statistics.known(area.low),
        high=statistics.known(area.high),
        method=area.method,
    )


def _plain(value: float, method: str) -> Interval:
    return Interval(value=statistics.known(value), method=method)
