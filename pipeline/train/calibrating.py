"""What is fitted after training, on held-out images: calibration and operating points."""

from data_schemas.terms import Split
from pipeline.evaluate.calibration import fit_temperature
from pipeline.evaluate.operating_points import choose
from pipeline.train import judge
from pipeline.train.ensemble import AnyNetwork
from pipeline.train.learning import split_logits
from pipeline.train.loop import Metrics
from pipeline.train.task import Calibrated, Task
from pipeline.train.world import World


def calibrate(network: AnyNetwork, task: Task, world: World) -> Calibrated:
    """Fit temperatures and choose operating points on the calibration split, in fp32."""
    split: Split = "calibration" if len(task.rows["calibration"]) else "tune"
    rows = task.rows[split]
    notes = [] if split == "calibration" else ["no calibration split: calibrated on the tune split"]
    logits = split_logits(network, task, rows, world, "fp32")
    truths = task.targets[rows]
    outputs, points = [], []
    metrics: Metrics = {}
    for place, output in enumerate(task.head.outputs):
        known = truths[:, place] >= 0
        own, labelled = logits[known], truths[known, place]
        fitted = fit_temperature(own[:, list(output.columns)], labelled, task.head.kind)
        if fitted.note:
            notes.append(f"{output.label}: {fitted.note}")
        if task.plan.calibration != "none":
            output = output.model_copy(update={"temperature": fitted.value})  # noqa: PLW2901
        truth = judge.is_positive(output, labelled)
        probability = judge.positive(output, own)
        point = choose(truth, probability, task.plan.operating, label=output.label)
        if point.note:
            notes.append(f"{output.label}: {point.note}")
        outputs.append(output)
        points.append(point)
        tail = f"_{output.label}" if len(task.head.outputs) > 1 else ""
        metrics |= judge.calibration_metrics(truth, probability, tail)
        metrics |= {
            f"calibration/temperature{tail}": output.temperature,
            f"calibration/loss_before{tail}": fitted.loss_before,
            f"calibration/loss_after{tail}": fitted.loss_after,
            f"calibration/threshold{tail}": point.high,
            f"calibration/sensitivity{tail}": point.sensitivity,
            f"calibration/specificity{tail}": point.specificity,
        }
    return Calibrated(tuple(outputs), tuple(points), split, logits, metrics, tuple(notes))
