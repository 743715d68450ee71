"""Shows an evaluation to a reviewer: the run's note, tables, worst mistakes with evidence, the page."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_schemas.card import Evaluation, Output
from pipeline.evaluate import mistakes, tables
from pipeline.evaluate.answers import SplitAnswers
from pipeline.evaluate.mistakes import Kind
from pipeline.evaluate.review import judged, note
from pipeline.evaluate.review_page import PAGE, Content, facts_of, review_page
from pipeline.ingest.store import Dataset
from pipeline.model.overlay import overlay_pixels
from pipeline.model.package import Package
from pipeline.model.runtime import Runtime
from pipeline.model.scoring import FULL_COLOUR, explained_class
from pipeline.tracking import shown
from pipeline.tracking.runs import TrackedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES: dict[Kind, str] = {
    "worst_fn": "Missed: positive by the truth, not called, farthest below the threshold first",
    "worst_fp": "False alarms: negative by the truth, called, farthest above the threshold first",
}
IMAGES_TAG = "hilum.images"
"""The run's tag that says whether MLflow may hold pictures of the data set: `kept` or `none`."""


def log_review(
    run: TrackedRun,
    package: Package,
    dataset: Dataset,
    answers: SplitAnswers,
    evaluation: Evaluation,
    figures: dict[str, "Figure"],
    metrics: dict[str, float],
) -> None:
    """Log what a reviewer looks at after the sealed test split was measured."""
    tags = shown.tags_of(run)
    found = {
        "eval/subgroups.json": tables.subgroups(answers, dataset),
        "eval/classes.json": tables.classes(answers),
        "eval/mistakes.json": tables.mistakes(answers),
    }
    shown.log_tables(run, {path: table.by_column() for path, table in found.items()})
    sheets = {}
    if tags.get(IMAGES_TAG) != "none":
        sheets = evidence_sheets(package, dataset, answers)
    for kind, pixels in sheets.items():
        shown.log_image(run, pixels, f"{kind}_test", 0)
    review = judged(answers, evaluation, dataset, package.card, tags.get("hilum.leaks", "unknown"))
    subgroups, classes, wrong = found.values()
    content = Content(
        title=f"{package.card.primary}: {package.card.backbone} on {package.card.dataset_name}",
        intended_use=package.card.intended_use,
        review=review,
        figures=figures,
        sheets={TITLES[kind]: pixels for kind, pixels in sheets.items()},
        tables={"Subgroups": subgroups, "Classes": classes, "Every mistake": wrong},
        remarks=(*package.card.notes, *evaluation.notes),
        facts={**facts_of(package.card, run.run_id), "package": package.sha256},
    )
    run.log_text(review_page(content), PAGE)
    text = note(review, shown.link(run, PAGE))
    run.set_note(text)
    info = dataset.info
    shown.log_model_metrics(run, metrics, f"{info.name}-test", info.content_sha256, text)


def evidence_sheets(
    package: Package, dataset: Dataset, answers: SplitAnswers
) -> dict[Kind, NDArray[np.uint8]]:
    """Return a sheet of the worst mistakes of each kind: the stored picture beside its evidence."""
    label = answers.of_primary()
    if label.point is None:
        return {}
    found = mistakes.worst(label.positive, label.probability, label.point.low, label.point.high)
    runtime = Runtime(package, threads=1)
    sheets: dict[Kind, NDArray[np.uint8]] = {}
    for kind in TITLES:
        chosen = [one for one in found if one.kind == kind][: mistakes.SHOWN // 2]
        if not chosen:
            continue
        places = label.rows[[one.place for one in chosen]]
        pixels = dataset.pixels(answers.indices[places])
        outputs = runtime.run(pixels)
        pictures, captions = [], []
        for one, stored, logits, grids in zip(
            chosen, pixels, outputs.logits, outputs.evidence, strict=True
        ):
            row = int(answers.indices[label.rows[one.place]])
            truth = label.output.classes[label.truth[one.place]]
            answered, column = explained_class(label.output, logits)
            pictures += [_rgb(stored), _overlay(stored, grids[column])]
            captions += [
                f"row {row}: truth {truth}, p {one.probability:.2f}",
                _about(label.output, answered),
            ]
        count = sum(one.kind == kind for one in found)
        title = f"{answers.split} split, {count} {mistakes.MANY[kind]}, the worst {len(chosen)}; red to yellow speaks for, blue against"
        sheets[kind] = mistakes.sheet(pictures, captions, title)
    return sheets


def _about(output: Output, answered: int) -> str:
    later = " or more" if output.link == "cumulative" else ""
    return f"evidence for {output.classes[answered]}{later}"


def _overlay(stored: NDArray[np.uint8], grid: NDArray[np.float32]) -> NDArray[np.uint8]:
    side = stored.shape[0]
    unit = max(float(np.abs(grid).max()), FULL_COLOUR)
    return overlay_pixels(_rgb(stored), grid, (0, 0, side, side), unit=unit)


def _rgb(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.broadcast_to(stored, (*stored.shape[:2], 3)))
