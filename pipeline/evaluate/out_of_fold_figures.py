"""The pictures of a cross-validation: what all folds together say, each fold thin beside it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data_schemas.card import Interval
from data_schemas.dataset import DatasetInfo
from pipeline.evaluate import statistics
from pipeline.evaluate.figures import (
    COLOURS,
    GREY,
    confusion_side,
    draw_confusion,
    with_interval,
)
from pipeline.evaluate.out_of_fold import FoldAnswers, questions, together

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def fold_figures(
    folds: Sequence[FoldAnswers], info: DatasetInfo, found: dict[str, Interval]
) -> dict[str, "Figure"]:
    """Return name -> figure, for the primary label: ``roc``, ``reliability``, ``confusion``."""
    return {
        "roc": _roc(folds, info, found),
        "reliability": _reliability(folds, info, found),
        "confusion": _confusion(folds, info, found),
    }


def _roc(folds: Sequence[FoldAnswers], info: DatasetInfo, found: dict[str, Interval]) -> "Figure":
    label, patients, kind = _primary(folds, info)
    asked = questions(label, patients, kind)
    figure, panels = _panels(len(asked))
    for place, (axes, question) in enumerate(zip(panels, asked, strict=True)):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        for fold in folds:
            own = next(one for one in fold.answers.labels if one.label == label.label)
            part = questions(own, fold.answers.patients[own.rows], kind)[place]
            if len(np.unique(part.positive)) > 1:
                curve = statistics.roc_curve(part.positive, part.probability)
                axes.plot(*curve, color=GREY, linewidth=0.7, alpha=0.8)
        if len(np.unique(question.positive)) > 1:
            curve = statistics.roc_curve(question.positive, question.probability)
            axes.plot(*curve, color=COLOURS[0], linewidth=2)
        counts = f"{int(question.positive.sum())} of {question.positive.size} positive"
        area = with_interval(found[f"auc/{question.name}"])
        axes.set_title(f"{question.name}: {area}\n{counts}", fontsize=9)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
    figure.suptitle("ROC of all folds together (grey: each fold); 95 % by patient", fontsize=10)
    return figure


def _reliability(
    folds: Sequence[FoldAnswers], info: DatasetInfo, found: dict[str, Interval]
) -> "Figure":
    label, patients, kind = _primary(folds, info)
    asked = questions(label, patients, kind)
    figure, panels = _panels(len(asked))
    for axes, question in zip(panels, asked, strict=True):
        mean, share, counts = statistics.calibration_bins(question.positive, question.probability)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        for at, observed, count in zip(mean, share, counts, strict=True):
            if count:
                low, high = statistics.clopper_pearson(round(observed * count), int(count))
                axes.plot([at, at], [low, high], color=COLOURS[0], linewidth=1)
                axes.plot(at, observed, "o", color=COLOURS[0], markersize=4)
        error = with_interval(found[f"ece/{question.name}"])
        axes.set_title(f"{question.name}\nECE {error}", fontsize=9)
        axes.set(xlabel="calibrated probability", ylabel="observed share", aspect="equal")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    figure.suptitle("Reliability of all folds together; bars: 95 % exact", fontsize=10)
    return figure


def _confusion(
    folds: Sequence[FoldAnswers], info: DatasetInfo, found: dict[str, Interval]
) -> "Figure":
    label, _, kind = _primary(folds, info)
    names = label.output.classes
    title = f"{label.label}: {label.truth.size} images, all folds together"
    if kind == "ordinal":
        title += f"\nquadratic kappa {with_interval(found[f'kappa/{label.label}'])}"
    counts = statistics.confusion(label.truth, label.answer, len(names))
    figure, (axes,) = _panels(1, confusion_side(len(names)))
    draw_confusion(axes, counts, names)
    axes.set_title(title, fontsize=9)
    return figure


def _primary(folds: Sequence[FoldAnswers], info: DatasetInfo) -> tuple[Any, Any, str]:
    label, patients = together(folds, folds[0].answers.primary)
    kind = next(one.kind for one in info.labels if one.name == label.label)
    return label, patients, kind


def _panels(count: int, width: float = 3.6) -> tuple["Figure", list[Any]]:
    # no pyplot: it keeps figures alive and picks a window system
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count + 0.6, width + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])
