"""The worst mistakes of a split: which images, and sheets that show them with what spoke for the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["worst_fn", "worst_fp"]
SHOWN = 12
COLUMNS = 4
WORDS: dict[Kind, str] = {"worst_fn": "missed", "worst_fp": "false alarm"}
MANY: dict[Kind, str] = {"worst_fn": "missed", "worst_fp": "false alarms"}


@dataclass(frozen=True, slots=True)
class Mistake:
    """An image that was called wrong at the threshold."""

    kind: Kind
    place: int  # in the arrays that were searched
    probability: float
    distance: float  # from the threshold


def worst(
    positive: NDArray[np.int64], probability: NDArray[np.floating[Any]], low: float, high: float
) -> list[Mistake]:
    """Return every mistake, farthest from its threshold first; ties in the order of images.

    What lies between two thresholds is undecided, and no mistake.

    Parameters
    ----------
    positive
        Truth, 0 or 1, [N].
    probability
        Calibrated probability of being positive, [N]; positive is called at ``high`` or more,
        negative below ``low``.
    """
    missed = (probability < low) & (positive == 1)
    alarm = (probability >= high) & (positive == 0)
    away = np.where(missed, low - probability, probability - high)
    wrong = np.flatnonzero(missed | alarm)
    order = wrong[np.argsort(-away[wrong], kind="stable")]
    return [
        Mistake(
            "worst_fn" if positive[place] else "worst_fp",
            int(place),
            float(probability[place]),
            float(away[place]),
        )
        for place in order
    ]


def sheet(
    pictures: Sequence[NDArray[np.uint8]], captions: Sequence[str], title: str
) -> NDArray[np.uint8]:
    """Return one picture [H, W, 3] of several, each below its caption."""
    # no pyplot: it keeps figures alive and picks a window system
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, max(2, len(pictures)))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(2.1 * columns, 2.4 * rows + 0.5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(fill(title, 18 * columns), fontsize=10)
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, picture, caption in zip(axes, pictures, captions, strict=False):
        grey = picture.shape[-1] == 1
        axis.imshow(picture[..., 0] if grey else picture, cmap="gray", vmin=0, vmax=255)
        axis.set_title(fill(caption, 24), fontsize=9 if len(caption) <= 24 else 8)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def as_pixels(figure: "Figure") -> NDArray[np.uint8]:
    """Return a figure as a picture [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
