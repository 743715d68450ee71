"""Figures of an evaluation: ROC curves, reliability, confusion matrices, scores by class."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data_schemas.card import Evaluation, Interval
from pipeline.evaluate import statistics
from pipeline.evaluate.answers import LabelAnswers, SplitAnswers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

# Okabe & Ito 2008: told apart with any kind of colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#8a8a8a"
LINES = ("-", "--", ":", "-.")
"""One for each round through the colours."""
MOST_NAMED = 8
"""Curves that a legend names: those of the primary label and of the smallest areas."""
LONGEST_NAME = 24


def all_figures(answers: SplitAnswers, evaluation: Evaluation) -> dict[str, "Figure"]:
    """Return name -> figure."""
    return {
        "roc": roc(answers, evaluation),
        "reliability": reliability(answers, evaluation),
        "confusion": confusion(answers, evaluation),
        "score_histogram": score_histogram(answers),
    }


def roc(answers: SplitAnswers, evaluation: Evaluation) -> "Figure":
    """Draw each label's ROC curve with its area and its frozen operating point."""
    figure, (axes,) = _panels(1, 5.6)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    areas = {one.label: evaluation.statistics[f"auc/{one.label}"] for one in answers.labels}
    named = _named(answers.primary, areas)
    for index, label in enumerate(answers.labels):
        area = areas[label.label]
        if area.value is None:
            continue
        colour = COLOURS[index % len(COLOURS)]
        primary = label.label == answers.primary
        alarms, hits = statistics.roc_curve(label.positive, label.probability)
        axes.plot(
            alarms,
            hits,
            color=colour,
            linewidth=2 if primary else 1.2,
            linestyle=LINES[index // len(COLOURS) % len(LINES)],
            label=f"{shorten(label.label)}  {with_interval(area)}" if label.label in named else "",
        )
        _mark_point(axes, label.label, evaluation, colour)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal")
    axes.set_title(f"ROC, {_counts(answers)}; rings: operating points", fontsize=10)
    if axes.get_legend_handles_labels()[1]:
        known = sum(area.value is not None for area in areas.values())
        others = f", {len(named)} of {known} labels" if known > len(named) else ""
        title = f"AUC (95 %, by patient){others}"
        axes.legend(loc="lower right", fontsize=8, title=title, title_fontsize=8)
    else:
        axes.text(0.5, 0.5, "undefined: a class is missing", ha="center")
    return figure


def _named(primary: str, areas: Mapping[str, Interval]) -> set[str]:
    known = {name: area.value for name, area in areas.items() if area.value is not None}
    order = sorted(known, key=lambda name: (name != primary, known[name]))
    return set(order[:MOST_NAMED])


def reliability(answers: SplitAnswers, evaluation: Evaluation) -> "Figure":
    """Draw observed share against probability for the primary label, with exact intervals.

    The bins are those of the headline error, of as many images each; hollow: before calibration.
    """
    label = answers.of_primary()
    figure, (axes,) = _panels(1, 5.6)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    style: dict[str, Any] = {"color": GREY, "mfc": "white", "markersize": 4}
    mean, share, counts = statistics.calibration_bins(label.positive, label.uncalibrated)
    filled = counts > 0
    axes.plot(mean[filled], share[filled], "o", label="before calibration", **style)
    mean, share, counts = statistics.calibration_bins(label.positive, label.probability)
    name = "calibrated, 95 % exact"
    for at, observed, count in zip(mean, share, counts, strict=True):
        if not count:
            continue
        low, high = statistics.clopper_pearson(round(observed * count), int(count))
        axes.plot([at, at], [low, high], color=COLOURS[0], linewidth=1)
        axes.plot(at, observed, "o", color=COLOURS[0], markersize=5, label=name)
        name = ""
    filled_counts = counts[counts > 0]
    axes.set(
        xlabel=f"calibrated probability of {label.label}",
        ylabel="observed share",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    axes.set_aspect("equal")
    axes.set_title(f"Reliability, {_counts(answers)}\n{_errors(label, evaluation)}", fontsize=10)
    if filled_counts.size:
        few, many = int(filled_counts.min()), int(filled_counts.max())
        images = f"{few}" if few == many else f"{few} to {many}"
        title = f"{filled_counts.size} bins of {images} images"
        axes.legend(loc="lower right", fontsize=8, title=title, title_fontsize=8)
    return figure


def _errors(label: LabelAnswers, evaluation: Evaluation) -> str:
    found = {
        name: evaluation.statistics[f"{name}/{label.label}"]
        for name in ("ece", "ece_before", "ece_perfect")
    }
    if found["ece"].value is None:
        return "ECE undefined"
    plain = {name: f"{interval.value:.3f}" for name, interval in found.items()}
    return (
        f"ECE {with_interval(found['ece'])}; {plain['ece_before']} before, "
        f"{plain['ece_perfect']} by chance alone"
    )


def confusion(answers: SplitAnswers, evaluation: Evaluation) -> "Figure":
    """Draw each label's confusion matrix: counts, shaded by share of the true class."""
    most = max(len(label.output.classes) for label in answers.labels)
    figure, panels = _panels(len(answers.labels), confusion_side(most))
    for axes, label in zip(panels, answers.labels, strict=True):
        draw_confusion(axes, evaluation.confusion[label.label], label.output.classes)
        axes.set_title(label.label, fontsize=10)
    return figure


def confusion_side(classes: int) -> float:
    """Return the side of a confusion matrix's picture, inches: three digits fit into each cell."""
    return max(3.4, 1.6 + 0.36 * classes)


def draw_confusion(axes: "Axes", counted: "ArrayLike", names: Sequence[str]) -> None:
    """Draw counts [K, K] of truth (rows) and answer, shaded by share of the true class."""
    counts = np.asarray(counted)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.55 else "black"
        text, size = str(counts[row, column]), 9 if len(names) <= 6 else 7
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
    short = [shorten(name) for name in names]
    axes.set_xticks(range(len(names)), short, fontsize=7, rotation=35, ha="right")
    axes.set_yticks(range(len(names)), short, fontsize=7)
    axes.set_xlabel("answer", fontsize=8)
    axes.set_ylabel("truth", fontsize=8)


def shorten(name: str, most: int = LONGEST_NAME) -> str:
    """Return a name of at most ``most`` letters: what is too long ends in an ellipsis."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def score_histogram(answers: SplitAnswers) -> "Figure":
    """Draw the primary label's probabilities by true class, with its thresholds."""
    label = answers.of_primary()
    figure, (axes,) = _panels(1, 5.6, 3.8)
    edges = np.linspace(0, 1, 26).tolist()
    for value, name, colour in ((0, "negative", COLOURS[0]), (1, "positive", COLOURS[1])):
        chosen = label.probability[label.positive == value]
        style: dict[str, Any] = {"color": colour, "label": f"truth {name} ({chosen.size})"}
        axes.hist(chosen, edges, alpha=0.45, **style)
        axes.hist(chosen, edges, histtype="step", color=colour, linewidth=1.2)
    _mark_thresholds(axes, label)
    axes.set(xlabel=f"calibrated probability of {label.label}", ylabel="images", xlim=(-0.01, 1.01))
    axes.set_title(f"Scores by truth, {_counts(answers)}", fontsize=10)
    axes.legend(fontsize=8)
    return figure


def with_interval(interval: Interval) -> str:
    """Return ``0.912 (0.871-0.944)``, or what is known of it."""
    if interval.value is None:
        return "undefined"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} ({interval.low:.3f}-{interval.high:.3f})"


def _mark_point(axes: Any, label: str, evaluation: Evaluation, colour: str) -> None:
    hit = evaluation.statistics.get(f"sensitivity/{label}")
    spared = evaluation.statistics.get(f"specificity/{label}")
    if hit and spared and hit.value is not None and spared.value is not None:
        axes.plot(1 - spared.value, hit.value, "o", mfc="white", mec=colour, mew=1.6, markersize=7)


def _mark_thresholds(axes: Any, label: LabelAnswers) -> None:
    if label.point is None:
        return
    for threshold in sorted({label.point.low, label.point.high}):
        axes.axvline(threshold, color="black", linewidth=1, linestyle="--")
        axes.annotate(
            f"{threshold:.3f}",
            (threshold, 1.0),
            (3, -3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            fontsize=8,
        )


def _panels(count: int, width: float, height: float | None = None) -> tuple["Figure", list[Any]]:
    # no pyplot: it keeps figures alive and picks a window system
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, (height or width) * rows), layout="constrained")
    FigureCanvasAgg(figure)
    found = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes in found[count:]:
        axes.set_axis_off()
    return figure, list(found[:count])


def _counts(answers: SplitAnswers) -> str:
    patients = np.unique(answers.patients).size
    return f"{answers.split} split: {answers.indices.size} images, {patients} patients"
