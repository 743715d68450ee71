"""The pictures that a training run keeps: how it learned, what it saw, how good its answers are."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from data_schemas.card import OperatingPoint, Output
from data_schemas.terms import Split
from pipeline.evaluate import statistics

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MOST_LABELS = 24
"""Labels drawn in one figure: a picture of hundreds would be taller than one can be."""
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#777777"  # told apart in any colour vision


def learning_curves(history: Sequence[dict[str, float]], kept: Sequence[int]) -> Figure:
    """Draw loss, tune AUC and learning rate by epoch; ``kept``: the epochs kept, one for each network."""
    figure, axes = _figure(3)
    epochs = np.arange(1, len(history) + 1)
    one = len(kept) == 1
    label = f"kept: epoch {kept[0]}" if one else f"kept: one epoch of each of {len(kept)} networks"
    for axis, names, title in (
        (axes[0], ("train/loss", "tune/loss"), "loss"),
        (axes[1], ("tune/auc", "tune/accuracy"), "tune split"),
        (axes[2], ("train/lr",), "learning rate"),
    ):
        for name, colour in zip(names, (BLUE, ORANGE), strict=False):
            values = [row.get(name, np.nan) for row in history]
            axis.plot(epochs, values, ".-", color=colour, label=name)
        for k, epoch in enumerate(kept):
            axis.axvline(epoch, color=GREY, linestyle=":", label="" if k else label)
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    return figure


def roc(answers: Sequence[tuple[str, Ints, Floats]], split: str) -> Figure:
    """Draw one ROC curve for each (name, truth 0/1 [N], probability [N])."""
    figure, axes = _figure(1, width=5.4)
    axis = axes[0]
    axis.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    for name, truth, probability in answers:
        if len(np.unique(truth)) < 2:
            axis.plot([], [], label=f"{name}: undefined, one class only")
            continue
        alarms, hits = statistics.roc_curve(truth, probability)
        area = statistics.auc(truth, probability)
        counts = f"{int(truth.sum())} of {len(truth)} positive"
        axis.plot(alarms, hits, label=f"{name}: AUC {area:.3f}, {counts}")
    axis.set(
        title=f"ROC, {split} split",
        xlabel="1 - specificity",
        ylabel="sensitivity",
        aspect="equal",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
    return figure


def reliability(
    truth: Ints, before: Floats, after: Floats, temperature: float, split: Split
) -> Figure:
    """Draw observed share against probability before and after the temperature, on ``split``."""
    figure, axes = _figure(2)
    for axis, values, title in (
        (axes[0], before, "before calibration"),
        (axes[1], after, f"after, temperature {temperature:.2f}"),
    ):
        mean, share, counts = statistics.calibration_bins(truth, values)
        filled = counts > 0
        error = statistics.expected_calibration_error(truth, values)
        axis.plot([0, 1], [0, 1], color=GREY, linestyle=":")
        axis.plot(mean[filled], share[filled], "-", color=BLUE, linewidth=1)
        axis.scatter(mean[filled], share[filled], s=12 + 6 * counts[filled], color=BLUE, alpha=0.6)
        axis.set(
            title=f"{title}\n{split} split, ECE {error:.3f}",
            xlabel="probability",
            ylabel="observed share (area: images)",
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02),
            aspect="equal",
        )
        axis.grid(alpha=0.3)
    return figure


def score_histogram(truth: Ints, values: Floats, point: OperatingPoint, split: Split) -> Figure:
    """Draw the probabilities of negatives and positives of ``split``, and where the thresholds lie."""
    figure, axes = _figure(1, width=6.4)
    axis = axes[0]
    edges = np.linspace(0, 1, 26).tolist()
    axis.hist(values[truth == 0], edges, color=BLUE, alpha=0.6, label="truth: negative")
    axis.hist(values[truth == 1], edges, color=ORANGE, alpha=0.6, label="truth: positive")
    for threshold in sorted({point.low, point.high}):
        axis.axvline(threshold, color="black", linestyle="--", linewidth=1)
    axis.set(
        title=f"{point.label}: {split} split, threshold {point.high:.3f}\n{point.rule}",
        xlabel="calibrated probability",
        ylabel="images",
    )
    axis.legend(fontsize=8)
    return figure


def class_counts(outputs: Sequence[Output], targets: Ints, rows: dict[str, Ints]) -> Figure:
    """Draw images of each class in each split, of the first labels; ``rows`` maps split -> manifest rows."""
    outputs = outputs[:MOST_LABELS]
    figure, axes = _figure(len(outputs), width=5.6)
    sizes = np.array([max(len(own), 1) for own in rows.values()])
    splits = [f"{name} ({len(own)})" for name, own in rows.items()]
    for place, (axis, output) in enumerate(zip(axes, outputs, strict=True)):
        left = np.zeros(len(rows))
        for number, name in enumerate(output.classes):
            counts = np.array([int((targets[own, place] == number).sum()) for own in rows.values()])
            parts = counts / sizes
            bars = axis.barh(splits, parts, left=left, label=name)
            words = [
                str(count) if part > 0.03 else "" for count, part in zip(counts, parts, strict=True)
            ]
            axis.bar_label(bars, words, label_type="center", fontsize=8)
            left += parts
        axis.invert_yaxis()
        axis.set(title=f"{output.label}: images of each class", xlabel="share of the split")
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def augmentation_sheet(plain: NDArray[np.uint8], changed: Sequence[NDArray[np.uint8]]) -> Figure:
    """Show images as stored [n, S, S, C] in the first row, as the network sees them below."""
    rows = [plain, *changed]
    figure = Figure(figsize=(1.5 * len(plain), 1.6 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(plain), squeeze=False)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            axis = axes[row][column]
            grey = image.shape[-1] == 1
            axis.imshow(image[..., 0] if grey else image, cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
        axes[row][0].set_ylabel("stored" if row == 0 else f"epoch {row}", fontsize=8)
    return figure


def _figure(columns: int, width: float = 4.6) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * columns, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])
