"""What is fitted after training, on held-out images: calibration and operating points."""

import numpy as np

from data_schemas.card import OperatingPoint
from data_schemas.terms import Split
from pipeline.evaluate.calibration import Calibration, fit_calibration
from pipeline.evaluate.operating_points import choose, further
from pipeline.train import judge
from pipeline.train.ensemble import AnyNetwork
from pipeline.train.learning import split_logits
from pipeline.train.loop import Metrics
from pipeline.train.task import Calibrated, Task
from pipeline.train.world import World


def calibrate(network: AnyNetwork, task: Task, world: World) -> Calibrated:
    """Fit calibrations and choose operating points on the calibration split, in fp32.

    The points of the verdicts come first, one for each output, then the further ones of the plan.
    """
    split: Split = "calibration" if len(task.rows["calibration"]) else "tune"
    rows = task.rows[split]
    notes = [] if split == "calibration" else ["no calibration split: calibrated on the tune split"]
    logits = split_logits(network, task, rows, world, "fp32")
    truths, patients = task.targets[rows], np.asarray(task.dataset.patients())[rows]
    outputs, points = [], []
    more: list[OperatingPoint] = []
    metrics: Metrics = {}
    for place, output in enumerate(task.head.outputs):
        known = truths[:, place] >= 0
        own, labelled, whose = logits[known], truths[known, place], patients[known]
        fitted = fit_calibration(own, labelled, output, task.plan.calibration, whose)
        output = fitted.applied(output)  # noqa: PLW2901
        truth = judge.is_positive(output, labelled)
        probability = judge.positive(output, own)
        point = choose(truth, probability, task.plan.operating, label=output.label, patients=whose)
        others, left_out = further(
            truth, probability, task.plan.points, label=output.label, patients=whose
        )
        remarks = (fitted.note, point.note, *left_out)
        notes += [f"{output.label}: {remark}" for remark in remarks if remark]
        outputs.append(output)
        points.append(point)
        more += others
        tail = f"_{output.label}" if len(task.head.outputs) > 1 else ""
        metrics |= judge.calibration_metrics(truth, probability, tail)
        metrics |= _metrics(fitted, point, tail)
    return Calibrated(tuple(outputs), (*points, *more), split, logits, metrics, tuple(notes))


def _metrics(fitted: Calibration, point: OperatingPoint, tail: str) -> Metrics:
    compared = {f"calibration/loss_{method}{tail}": loss for method, loss in fitted.losses.items()}
    return {
        f"calibration/temperature{tail}": fitted.temperature,
        f"calibration/loss_before{tail}": fitted.loss_before,
        f"calibration/loss_after{tail}": fitted.loss_after,
        f"calibration/threshold{tail}": point.high,
        f"calibration/sensitivity{tail}": point.sensitivity,
        f"calibration/specificity{tail}": point.specificity,
        **compared,
    }
