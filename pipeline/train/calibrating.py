"""What is fitted after training, on held-out images: calibration and operating points."""

import numpy as np

from data_schemas.card import Card, OperatingPoint
from data_schemas.terms import Split
from pipeline.evaluate.calibration import Calibration, fit_calibration
from pipeline.evaluate.operating_points import choose, further
from pipeline.model.export_check import RealImages
from pipeline.train import judge
from pipeline.train.ensemble import AnyNetwork
from pipeline.train.labels import Floats
from pipeline.train.learning import split_logits
from pipeline.train.loop import Metrics
from pipeline.train.task import Calibrated, Task
from pipeline.train.world import World

CHECKED_IMAGES = 64
"""Images of the tuning split on which the exported package is compared with the network."""


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


def checked_images(task: Task, calibrated: Calibrated, tune_logits: Floats) -> RealImages:
    """Return images of the tuning split for the export's check: those nearest to the threshold, and others.

    ``tune_logits`` [N, K] are of the tuning split, in order.
    """
    place, rows = task.head.primary_index, task.rows["tune"]
    probability = judge.positive(calibrated.outputs[place], tune_logits)
    order = np.argsort(np.abs(probability - calibrated.points[place].high), kind="stable")
    near, rest = order[: CHECKED_IMAGES // 2], order[CHECKED_IMAGES // 2 :]
    spread = np.linspace(0, len(rest) - 1, min(CHECKED_IMAGES // 2, len(rest))).astype(int)
    chosen = rows[np.concatenate([near, rest[spread]])]
    return RealImages(np.ascontiguousarray(task.dataset.pixels(chosen)), "tune")


def export_metrics(card: Card) -> Metrics:
    """Return ``checks/...``: how far the exported package is from the network, as it is served by default."""
    check = card.checks[0]
    return {
        "checks/onnx_difference": card.onnx_max_logit_difference,
        "checks/images": float(check.images),
        "checks/probability_difference": check.max_probability_difference,
        "checks/changed_verdicts": float(check.changed_verdicts),
        "checks/near_threshold": float(check.near_threshold),
        "checks/from_bytes": float(check.from_bytes),
    }


def _metrics(fitted: Calibration, point: OperatingPoint, tail: str) -> Metrics:
    compared = {f"calibration/loss_{method}{tail}": loss for method, loss in fitted.losses.items()}
    rates = {
        f"calibration/sensitivity{tail}": point.sensitivity,
        f"calibration/specificity{tail}": point.specificity,
    }
    return {
        f"calibration/temperature{tail}": fitted.temperature,
        f"calibration/loss_before{tail}": fitted.loss_before,
        f"calibration/loss_after{tail}": fitted.loss_after,
        f"calibration/threshold{tail}": point.high,
        **compared,
        **(rates if point.proven else {}),
    }
