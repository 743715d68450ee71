"""What a reviewer sees of a training run: the note at the top of its page, and the figures."""

import numpy as np
from matplotlib.figure import Figure

from data_schemas.card import Card, OperatingPoint
from data_schemas.terms import Split
from pipeline.tracking.runs import TrackedRun
from pipeline.train import augment, figures, judge
from pipeline.train.labels import Floats
from pipeline.train.loop import Fitted
from pipeline.train.task import Calibrated, Task

SHEET_IMAGES = 6
SHEET_EPOCHS = 3


def log_pages(
    run: TrackedRun,
    task: Task,
    calibrated: Calibrated,
    tune_logits: Floats,
    fitted: Fitted,
) -> None:
    """Draw and store the run's figures."""
    run.log_figure(
        figures.learning_curves(fitted.history, fitted.best_epoch), "figures/learning.png"
    )
    splits = {str(split): rows for split, rows in task.rows.items()}
    counts = figures.class_counts(task.head.outputs, task.targets, splits)
    run.log_figure(counts, "figures/classes.png")
    tune_truths = task.targets[task.rows["tune"]]
    curves = [
        (
            output.label,
            judge.is_positive(output, tune_truths[known, place]),
            judge.positive(output, tune_logits[known]),
        )
        for place, output in enumerate(task.head.outputs)
        for known in (tune_truths[:, place] >= 0,)
    ]
    run.log_figure(figures.roc(curves, "tune"), "figures/roc_tune.png")
    place = task.head.primary_index
    before, after = task.head.outputs[place], calibrated.outputs[place]
    labelled = task.targets[task.rows[calibrated.split], place]
    known = labelled >= 0
    truth = judge.is_positive(after, labelled[known])
    probability = judge.positive(after, calibrated.logits[known])
    uncalibrated = judge.positive(before, calibrated.logits[known])
    reliability = figures.reliability(truth, uncalibrated, probability, after.temperature)
    run.log_figure(reliability, "figures/reliability.png")
    histogram = figures.score_histogram(truth, probability, calibrated.points[place])
    run.log_figure(histogram, "figures/scores.png")
    run.log_figure(_sheet(task), "figures/augmentation.png")


def note(task: Task, fitted: Fitted, calibrated: Calibrated, card: Card) -> str:
    """Return the run's note in Markdown: what a clinical reviewer reads in one minute."""
    info = task.info
    place = task.head.primary_index
    rows = "\n".join(
        f"| {split} | {len(own)} | {_positives(task, split)} |" for split, own in task.rows.items()
    )
    refused = sum(info.refused.values())
    remarks = "\n".join(f"- {remark}" for remark in card.notes) or "- none"
    positives = ", ".join(
        card.outputs[place].classes[k] for k in card.outputs[place].positive_classes
    )
    return f"""## {task.head.primary}: {card.backbone} on {info.name}

**Intended use.** {card.intended_use}

**Result so far.** Tune AUC {fitted.best.get("tune/auc", float("nan")):.3f} at epoch \
{fitted.best_epoch} of {fitted.epochs}{" (stopped early)" if fitted.stopped_early else ""}. \
The tune split selected this epoch, so the figure flatters; the honest one comes from \
`hilum evaluate` on the sealed test split.

**Verdict.** Positive means {task.head.primary} = {positives}. {_point(calibrated.points[place])}

**Data.** {info.images} images of {info.patients} patients at {info.size} px; {refused} files refused. \
Leaks between the splits: {task.leaks}.

| split | images | positive |
| --- | --- | --- |
{rows}

**Remarks**

{remarks}

**To reproduce.** `config/plan.yaml`, data set `{info.content_sha256[:16]}`, \
contract `{info.contract_sha256[:16]}`, weights in `package/`. \
The package's exported graph differs from the trained network by at most \
{card.onnx_max_logit_difference:.1e} in a logit.
"""


def _point(point: OperatingPoint) -> str:
    low = "" if point.low == point.high else f", negative below {point.low:.3f}"
    return (
        f"Called at a calibrated probability of {point.high:.3f} or more{low} "
        f"(rule {point.rule}; on {point.images} calibration images, {point.positives} of them "
        f"positive: sensitivity {point.sensitivity:.3f}, specificity {point.specificity:.3f})."
    )


def _positives(task: Task, split: Split) -> int:
    place = task.head.primary_index
    truth = task.targets[task.rows[split], place]
    return int(judge.is_positive(task.head.outputs[place], truth).sum())


def _sheet(task: Task) -> Figure:
    # spread over the classes: every picture of the sheet says something
    rows = task.rows["train"]
    order = np.argsort(task.targets[rows, task.head.primary_index], kind="stable")
    chosen = rows[order[np.linspace(0, len(rows) - 1, min(SHEET_IMAGES, len(rows))).astype(int)]]
    plain = np.ascontiguousarray(task.dataset.pixels(chosen))
    change = augment.policy(task.plan.augmentation, task.plan.seed)
    changed = [change(plain, chosen, epoch) for epoch in range(1, SHEET_EPOCHS + 1)]
    return figures.augmentation_sheet(plain, changed)
