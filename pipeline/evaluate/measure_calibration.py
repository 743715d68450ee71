"""Figures of how far probabilities can be believed, of a split's answers, with the remarks they call for."""

import numpy as np

from data_schemas.card import Interval, PrevalenceRow
from pipeline.evaluate import statistics
from pipeline.evaluate.answers import LabelAnswers, SplitAnswers
from pipeline.evaluate.prevalence import prevalence_rows
from pipeline.evaluate.reliability import calibration_errors, recalibration


def calibration_figures(
    answers: LabelAnswers, split: SplitAnswers, notes: list[str]
) -> dict[str, Interval]:
    """Return prevalence, calibration error, log-loss, slope and offset of a label's positive answer.

    ``ece_before`` and ``log_loss_before`` are of the network's own probabilities, before the
    temperature; ``ece_change`` is after - before; ``ece_perfect`` is what true probabilities would
    give on as many images.
    """
    name = answers.label
    patients = split.patients[answers.rows]
    after, before = answers.probability, answers.uncalibrated
    errors = calibration_errors(answers.positive, before, after, patients)
    slope, large = recalibration(answers.positive, after, patients)
    if errors.worse:
        notes.append(
            f"{name}: calibration made its error worse on this split, by more than the interval: "
            f"{errors.before.value:.3f} before, {errors.after.value:.3f} after"
        )
    ill = answers.positive == 1
    share = statistics.share(ill, ill.astype(np.float64), patients)
    return {
        f"prevalence/{name}": share,
        f"ece/{name}": errors.after,
        f"ece_before/{name}": errors.before,
        f"ece_change/{name}": errors.change,
        f"ece_perfect/{name}": errors.perfect,
        f"log_loss/{name}": _plain(statistics.log_loss(answers.positive, after)),
        f"log_loss_before/{name}": _plain(statistics.log_loss(answers.positive, before)),
        f"calibration_slope/{name}": slope,
        f"calibration_in_the_large/{name}": large,
    }


def prevalence_figures(
    split: SplitAnswers, stated: float | None, notes: list[str]
) -> tuple[PrevalenceRow, ...]:
    """Return what prior correction makes of each label; ``stated`` is the primary label's prevalence.

    A note says where the split's own prevalence is not the one that was calibrated at.
    """
    found: list[PrevalenceRow] = []
    for label in split.labels:
        if label.point is None:
            continue
        own = stated if label.label == split.primary else None
        rows = prevalence_rows(label.positive, label.probability, label.point, own)
        if not rows:
            continue
        found += rows
        whose = split.patients[label.rows]
        ill = label.positive == 1
        here = statistics.share(ill, ill.astype(np.float64), whose)
        then = rows[0].prevalence
        if here.low is not None and here.high is not None and not here.low <= then <= here.high:
            notes.append(
                f"{label.label}: {then:.1%} of the calibration images are positive and "
                f"{here.value:.1%} of these: its probabilities are off by that; a prior correction "
                "is shown, sensitivity and specificity at the threshold don't depend on it"
            )
    return tuple(found)


def _plain(value: float) -> Interval:
    return Interval(value=statistics.known(value), method="of the positive classes' probability")
