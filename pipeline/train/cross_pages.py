"""What a reviewer sees of a cross-validation: its note, its table of folds, its figures."""

import csv
import io
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from data_schemas import settings
from data_schemas.card import Interval
from data_schemas.plan import Plan
from pipeline.evaluate.figures import with_interval
from pipeline.evaluate.out_of_fold import (
    GRADES_BY,
    FoldAnswers,
    fold_row,
    write_out_of_fold,
)
from pipeline.evaluate.out_of_fold_figures import fold_figures
from pipeline.evaluate.review import Review, count, note, refused, with_limits
from pipeline.tracking import shown
from pipeline.tracking.runs import TrackedRun
from pipeline.train.task import Task

PAGE = "folds.md"
SHOWN = ("kappa", "sensitivity", "specificity")
"""What follows the area in the first line of the note."""


def log_start(run: TrackedRun, task: Task, plan: Plan) -> None:
    """Log what the cross-validation is made from: plan, data set, contract."""
    run.log_params(settings.flat(plan.model_dump(mode="json")))
    run.log_text(settings.to_yaml(plan), "config/plan.yaml")
    run.log_json(task.info.model_dump(mode="json"), "config/dataset.json")
    run.log_json(task.dataset.contract.model_dump(mode="json"), "config/contract.json")


def log_end(
    run: TrackedRun,
    task: Task,
    folds: Sequence[FoldAnswers],
    found: dict[str, Interval],
    notes: Sequence[str],
) -> None:
    """Log the figures of all folds together and of each, their table, predictions and pictures."""
    rows = [fold_row(fold, task.info) for fold in folds]
    for fold, row in zip(folds, rows, strict=True):
        named = {f"fold/{_metric(key)}": value for key, value in row.items()}
        run.log_metrics(named, step=fold.number + 1)
    run.log_metrics(pooled_metrics(found), step=0)
    run.log_metrics({"time/total_s": sum(fold.seconds for fold in folds)}, step=0)
    run.flush()
    for name, figure in fold_figures(folds, task.info, found).items():
        run.log_figure(figure, f"figures/folds_{name}.png")
    with tempfile.TemporaryDirectory() as scratch:
        write_out_of_fold(folds, Path(scratch) / "predictions.parquet")
        run.log_files(Path(scratch), "evaluation")
    run.log_text(_csv(folds, rows), "evaluation/folds.csv")
    tree = {key: interval.model_dump(mode="json") for key, interval in found.items()}
    run.log_json(tree, "evaluation/pooled.json")
    run.log_text(page(task, folds, found, notes), PAGE)
    run.set_note(note(review(task, folds, found, notes), shown.link(run, PAGE)))


def pooled_metrics(found: dict[str, Interval]) -> dict[str, float]:
    """Return the pooled figures with their limits, under names for MLflow; the undefined are left out."""
    metrics = {}
    for key, interval in found.items():
        for tail, value in (("", interval.value), ("_lo", interval.low), ("_hi", interval.high)):
            if value is not None:
                metrics[f"pooled/{_metric(key)}{tail}"] = value
    return metrics


def table(
    folds: Sequence[FoldAnswers], task_rows: Sequence[dict[str, float]], found: dict[str, Interval]
) -> str:
    """Return the folds and all together as a Markdown table; only what has a pooled figure."""
    keys = [key for key in found if key in task_rows[0]]
    head = ["fold", "images", "patients", *keys]
    lines = [head, ["---"] * len(head)]
    for fold, row in zip(folds, task_rows, strict=True):
        counts = [str(fold.number + 1), f"{row['images']:.0f}", f"{row['patients']:.0f}"]
        lines.append([*counts, *(f"{row[key]:.3f}" for key in keys)])
    total = [f"{sum(row[name] for row in task_rows):.0f}" for name in ("images", "patients")]
    lines.append(["**all**", *total, *(f"**{with_interval(found[key])}**" for key in keys)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def review(
    task: Task,
    folds: Sequence[FoldAnswers],
    found: dict[str, Interval],
    notes: Sequence[str],
) -> Review:
    """Return the five answers about all folds together."""
    info = task.info
    rows = [fold_row(fold, info) for fold in folds]
    key = _asked(task, found)
    shown_first = [key, *(name for name in found if name.split("/")[0] in SHOWN)]
    figures = ", ".join(
        f"{_spoken(name, task.head.primary)} {with_limits(found[name])}" for name in shown_first[:3]
    )
    aucs = [row[key] for row in rows if math.isfinite(row.get(key, math.nan))]
    spread = f", folds {min(aucs):.3f} to {max(aucs):.3f}" if aucs else ""
    if aucs and len(aucs) < len(rows):
        spread += f" (undefined in {len(rows) - len(aucs)})"
    ece = found.get(key.replace("auc/", "ece/"), Interval(value=None))
    images, patients = (round(sum(row[name] for row in rows)) for name in ("images", "patients"))
    remarks = list(dict.fromkeys(notes))
    return Review(
        good=figures,
        sure=f"95 % intervals by patient{spread}; calibration error (ECE) {with_limits(ece)}",
        whom=f"{count(patients, 'patient')} ({count(images, 'image')}), each answered by a network "
        f"that never saw them; {refused(info)}",
        data=f"{info.name[:30]} {info.content_sha256[:8]}, leaks: {task.leaks}; "
        f"{len(folds)} folds by patient",
        wrong=f"{count(len(remarks), 'remark')}; one source, so not an external validation.",
        flags=tuple(remarks),
    )


def _asked(task: Task, found: dict[str, Interval]) -> str:
    """Return the key of the AUC of the question that the verdict answers, as far as there is one."""
    name = task.head.primary
    output = task.head.outputs[task.head.primary_index]
    first = min(output.positive_classes)
    tail = set(output.positive_classes) == set(range(first, len(output.classes)))
    keys = [f"auc/{name}", f"auc/{name}_ge{first}" if tail else "", f"auc_macro/{name}"]
    return next(
        (key for key in keys if key in found), next(key for key in found if key.startswith("auc"))
    )


def _spoken(key: str, primary: str) -> str:
    statistic, _, name = key.partition("/")
    beside = name.removeprefix(primary).lstrip("_").replace("ge", ">= ")
    return f"{statistic.replace('auc', 'AUC')}{f' ({beside})' if beside else ''}"


def page(
    task: Task,
    folds: Sequence[FoldAnswers],
    found: dict[str, Interval],
    notes: Sequence[str],
) -> str:
    """Return the parent run's page in Markdown."""
    rows = [fold_row(fold, task.info) for fold in folds]
    rest = "\n".join(
        f"| {key} | {with_interval(interval)} |"
        for key, interval in found.items()
        if key not in rows[0]
    )
    packages = "\n".join(
        f"- fold {fold.number + 1}: run `{fold.run_id}`, `package/`" for fold in folds
    )
    remarks = "\n".join(f"- {remark}" for remark in dict.fromkeys(notes)) or "- none"
    steps = "; ".join(f"{key}: {what}" for key, what in GRADES_BY.items())
    graded = (
        f"\nKappa has quadratic weights. {steps}.\n"
        if f"kappa/{task.head.primary}" in found
        else ""
    )
    return f"""## {task.head.primary}: {len(folds)} folds by patient on {task.info.name}

Every image was answered once, by a network that had seen no image of its patient. Nothing was \
chosen on a fold's test images. Intervals are of 95 %, of patients and not of images.

{table(folds, rows, found)}

| all folds together | |
| --- | --- |
{rest}
{graded}
**Models.** {len(folds)} networks, each in its own run below this one. A package's card and \
`evaluation.json` are of its own fold's test images; this run holds none. These figures are of the \
plan on this data set, not of one network.

{packages}

**Remarks**

{remarks}

**To reproduce.** `config/plan.yaml`, data set `{task.info.content_sha256[:16]}`. Internal \
validation: the patients are of the same source as those trained on.
"""


def _csv(folds: Sequence[FoldAnswers], rows: Sequence[dict[str, float]]) -> str:
    text = io.StringIO()
    fields = ["fold", "run", "best_epoch", "seconds", *rows[0]]
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for fold, row in zip(folds, rows, strict=True):
        known = {"fold": fold.number + 1, "run": fold.run_id, "best_epoch": fold.best_epoch}
        writer.writerow({**known, "seconds": round(fold.seconds, 1), **row})
    return text.getvalue()


def _metric(key: str) -> str:
    return key.replace("/", "_")
