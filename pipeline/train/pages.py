"""What a reviewer sees of a training run: note, figures, mistakes, the model's record, the list's view."""

import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from data_schemas.card import Card, OperatingPoint
from data_schemas.terms import Split
from pipeline.evaluate import mistakes
from pipeline.evaluate.review import Review, count, note, of_data, refused
from pipeline.evaluate.review_page import PAGE, Content, facts_of, review_page
from pipeline.tracking import shown
from pipeline.tracking.runs import TrackedRun
from pipeline.train import augment, figures, judge
from pipeline.train.labels import Floats
from pipeline.train.loop import Fitted
from pipeline.train.task import Calibrated, Task

SHEET_IMAGES = 6
SHEET_EPOCHS = 3
VIEW_METRICS = (
    *("test/auc", "test/auc_lo", "test/auc_hi", "test/sensitivity", "test/specificity"),
    *("test/ece", "test/patients"),
)
"""Columns of the experiment's saved view `Review`."""
EXPERIMENT_NOTE = """**How to read this list.** One line is one training. Open **Views, Review** above the list: \
it shows AUC on the sealed test split with its 95 % limits, sensitivity and specificity at the stored threshold, \
calibration error and patients. An empty `test/auc` means: not judged yet (`hilum evaluate RUN`). \
`best/auc` is of the tune split, which may have chosen the epoch: it flatters. Compare runs only on the same data set \
(column Dataset: same digest). A run's page answers five questions in its first lines.
"""


def log_pages(
    run: TrackedRun,
    task: Task,
    calibrated: Calibrated,
    tune_logits: Floats,
    fitted: Fitted,
) -> dict[str, Figure]:
    """Draw and store the run's figures; return those of its page."""
    learning = figures.learning_curves(fitted.history, fitted.kept)
    run.log_figure(learning, "figures/learning.png")
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
    split = calibrated.split
    reliability = figures.reliability(truth, uncalibrated, probability, after.temperature, split)
    run.log_figure(reliability, "figures/reliability.png")
    histogram = figures.score_histogram(truth, probability, calibrated.points[place], split)
    run.log_figure(histogram, "figures/scores.png")
    return {"learning": learning, "reliability": reliability, "scores": histogram}


def log_mistakes(
    run: TrackedRun, task: Task, calibrated: Calibrated, tune_logits: Floats, epoch: int
) -> None:
    """Show the kept epoch's worst mistakes on the tune split, and what augmentation does.

    The pictures are the data set's own prepared arrays, which carry no name and no header.
    """
    sheet = _sheet(task)
    shown.log_image(run, mistakes.as_pixels(sheet), "augment_sheet", 0)
    place = task.head.primary_index
    output, point = calibrated.outputs[place], calibrated.points[place]
    rows = task.rows["tune"]
    labelled = task.targets[rows, place]
    known = np.flatnonzero(labelled >= 0)
    probability = judge.positive(output, tune_logits[known])
    truth = judge.is_positive(output, labelled[known])
    found = mistakes.worst(truth, probability, point.low, point.high)
    for kind in mistakes.WORDS:
        own = [one for one in found if one.kind == kind]
        chosen = own[: mistakes.SHOWN]
        if not chosen:
            continue
        where = rows[known[[one.place for one in chosen]]]
        captions = [
            f"row {row}: {output.classes[task.targets[row, place]]}, p {one.probability:.2f}"
            for row, one in zip(where, chosen, strict=True)
        ]
        word = mistakes.MANY[kind]
        title = f"tune split, epoch {epoch}: {len(own)} {word}, the worst {len(chosen)} (truth, p)"
        pictures = list(task.dataset.pixels(where))
        shown.log_image(run, mistakes.sheet(pictures, captions, title), kind, epoch)


def not_judged(
    task: Task, fitted: Fitted, calibrated: Calibrated, tune_logits: Floats, card: Card
) -> Review:
    """Return the review of a run whose test split nobody has opened yet."""
    info, place = task.info, task.head.primary_index
    point, output = calibrated.points[place], calibrated.outputs[place]
    labelled = task.targets[task.rows["tune"], place]
    known = labelled >= 0
    truth = judge.is_positive(output, labelled[known])
    probability = judge.positive(output, tune_logits[known])
    found = mistakes.worst(truth, probability, point.low, point.high)
    missed = sum(one.kind == "worst_fn" for one in found)
    alarms = len(found) - missed
    early = ", stopped early" if fitted.stopped_early else ""
    chose = "which chose epoch" if task.plan.learning.keep == "best" else "kept at epoch"
    chosen = f"{chose} {fitted.best_epoch} of {fitted.epochs}"
    if len(fitted.kept) > 1:
        chosen = f"of {len(fitted.kept)} networks and {fitted.epochs} epochs in all"
    ece = calibrated.metrics.get("calibration/ece")
    error = "" if ece is None else f"; calibration error (ECE) {ece:.3f}"
    remarks = f"{count(len(card.notes), 'remark')}." if card.notes else "no remarks."
    return Review(
        good=f"Not judged on the test split yet. Tune AUC {fitted.best.get('tune/auc', math.nan):.3f}, "
        f"{chosen}{early}",
        sure=f"{calibrated.split} split ({count(point.images, 'image')}, {point.positives} positive): "
        f"{_rates(point, 2)}{error}",
        whom=f"trained on {count(len(task.rows['train']), 'image')} ({_positives(task, 'train')} positive), "
        f"{count(info.patients, 'patient')} in all splits; {refused(info)}",
        data=of_data(info, task.leaks),
        wrong=f"{missed} of {int(truth.sum())} positives missed, {count(alarms, 'false alarm')} "
        f"on the tune split; {remarks}",
        flags=("not judged on the test split yet: hilum evaluate RUN", *card.notes),
    )


def log_review(run: TrackedRun, review: Review, card: Card, drawn: dict[str, Figure]) -> None:
    """Log the run's note and page before its test split is measured; that replaces both."""
    content = Content(
        title=f"{card.primary}: {card.backbone} on {card.dataset_name}",
        intended_use=card.intended_use,
        review=review,
        figures=drawn,
        sheets={},
        tables={},
        remarks=[described(point) for point in card.operating_points],
        facts=facts_of(card, run.run_id),
    )
    run.log_text(review_page(content), PAGE)
    run.set_note(note(review, shown.link(run, PAGE)))


def log_model(run: TrackedRun, task: Task, fitted: Fitted, card: Card, package: Path) -> None:
    """Make the run's model record: the card, and how well the kept epoch did on the tune split."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("card.json", "contract.json", "SHA256SUMS"):
            shutil.copyfile(package / name, Path(scratch) / name)
        params = {
            "backbone": card.backbone,
            "size": str(card.size),
            "parameters": str(card.parameters),
            "seed": str(task.plan.seed),
            "best_epoch": str(fitted.best_epoch),
        }
        tags = {"hilum.plan_sha256": card.plan_sha256, "hilum.dataset": task.info.name}
        name = f"{card.primary}-{card.backbone}"
        shown.record_model(run, name, Path(scratch), params, tags)
    best = {f"best/{name.partition('/')[2]}": value for name, value in fitted.best.items()}
    best = {name: best[name] for name in ("best/auc", "best/loss", "best/accuracy") if name in best}
    info = task.info
    shown.log_model_metrics(run, best, f"{info.name}-tune", info.content_sha256)


def describe_experiment(run: TrackedRun) -> None:
    """Say how the list of an experiment's runs is read, and save a view with the telling columns."""
    named = [f"metrics.`{name}`" for name in VIEW_METRICS]
    shown.describe_experiment(run, EXPERIMENT_NOTE, [*named, "params.`data.name`"])


def name_of(task: Task) -> str:
    """Return a run's name: what is answered, by which network, from which seed."""
    return f"{task.head.primary} {task.plan.backbones} seed {task.plan.seed}"


def described(point: OperatingPoint) -> str:
    """Return a point in one sentence: thresholds, rule, what it was chosen on, what that showed."""
    low = "" if point.low == point.high else f", negative below {point.low:.3f}"
    return (
        f"{point.label}: positive at a calibrated probability of {point.high:.3f} or more{low} "
        f"(rule {point.rule}; on {point.images} calibration images, {point.positives} of them "
        f"positive: {_rates(point, 3)})"
    )


def _rates(point: OperatingPoint, digits: int) -> str:
    if not point.proven:
        return "sensitivity and specificity undefined"
    return f"sensitivity {point.sensitivity:.{digits}f}, specificity {point.specificity:.{digits}f}"


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
