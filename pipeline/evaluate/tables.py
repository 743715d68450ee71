"""Tables of an evaluation that MLflow shows: subgroups, classes, mistakes. Pseudonyms only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate import statistics
from pipeline.evaluate.answers import LabelAnswers, SplitAnswers
from pipeline.evaluate.mistakes import WORDS, worst
from pipeline.evaluate.review import count, with_limits
from pipeline.ingest.store import Dataset

GROUPS = ("site", "device", "laterality", "view", "modality", "format", "quality", "warnings")
MOST_LEVELS = 20
"""Values of a column with a row of their own, those of most images; the others share one."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column names; a figure is a text with its 95 % interval, as MLflow's narrow view needs it."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def by_column(self) -> dict[str, list[Any]]:
        """Return column -> values."""
        return {name: [row[place] for row in self.rows] for place, name in enumerate(self.columns)}


def subgroups(answers: SplitAnswers, dataset: Dataset) -> Table:
    """Return the primary label's figures for every value of what is known of the images.

    The first row is the whole split. A group of one value only is the whole split, and left out.
    """
    label = answers.of_primary()
    everything = np.ones(label.positive.size, bool)
    rows = [("all", *_figures(label, everything, answers))]
    for column in GROUPS:
        values = np.array(
            [_plain(value) for value in dataset.manifest[column].to_pylist()], dtype=np.str_
        )[answers.indices][label.rows]
        levels, counts = np.unique(values, return_counts=True)
        if levels.size < 2:
            continue
        own = np.sort(levels[np.argsort(-counts, kind="stable")[:MOST_LEVELS]])
        groups = [(level or "unknown", values == level) for level in own.tolist()]
        others = ~np.isin(values, own)
        if others.any():
            groups.append((count(levels.size - own.size, "other"), others))
        rows += [(f"{column}: {name}", *_figures(label, of, answers)) for name, of in groups]
    columns = ("group", "patients", "images", "positive", "auc", "sensitivity", "specificity")
    return Table(columns, tuple(rows))


def classes(answers: SplitAnswers) -> Table:
    """Return each class of each label: how many, how many found, how many answered wrongly so."""
    rows = []
    for label in answers.labels:
        for number, name in enumerate(label.output.classes):
            own, said = label.truth == number, label.answer == number
            whose, scores = answers.patients[label.rows], label.classes[:, number]
            found = statistics.share(said[own], scores[own], whose[own])
            area = statistics.delong(own.astype(np.int64), scores, patients=whose)
            rows.append(
                (
                    *(label.label, name, int(own.sum()), int(said.sum()), found.numerator),
                    *(with_limits(found), with_limits(area.known())),
                )
            )
    columns = ("label", "class", "images", "answered", "right", "recall", "auc_against_rest")
    return Table(columns, tuple(rows))


def mistakes(answers: SplitAnswers) -> Table:
    """Return every image called wrong at the primary label's threshold, the worst first."""
    label = answers.of_primary()
    columns = ("row", "patient", "truth", "probability", "answer", "verdict", "mistake")
    if label.point is None:
        return Table(columns, ())
    rows = []
    for one in worst(label.positive, label.probability, label.point.low, label.point.high):
        place = label.rows[one.place]
        row = int(answers.indices[place])
        rows.append(
            (
                *(row, str(answers.patients[place])[:12]),
                label.output.classes[label.truth[one.place]],
                round(one.probability, 4),
                label.output.classes[label.answer[one.place]],
                str(answers.verdicts[place]),
                WORDS[one.kind],
            )
        )
    return Table(columns, tuple(rows))


def _figures(
    label: LabelAnswers, chosen: NDArray[np.bool_], answers: SplitAnswers
) -> Iterator[Any]:
    truth, probability = label.positive[chosen], label.probability[chosen]
    whose = answers.patients[label.rows[chosen]]
    yield int(np.unique(whose).size)
    yield int(truth.size)
    yield int(truth.sum())
    yield with_limits(statistics.delong(truth, probability, patients=whose).known())
    if label.point is None:
        yield from ("no operating point",) * 2
        return
    called = probability >= label.point.high
    for wanted, said in ((truth == 1, called), (truth == 0, ~called)):
        yield with_limits(statistics.share(said[wanted], probability[wanted], whose[wanted]))


def _plain(value: object) -> str:
    return "" if value is None else str(value)
