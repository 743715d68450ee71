"""Counts a manifest: images and patients by split, label, fold, site and kind; as tables of the page."""

from collections import Counter
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from data_schemas.dataset import Label
from pipeline.ingest.page.markup import Cell, share, table
from pipeline.ingest.store import Dataset

Strings = NDArray[np.str_]

_MOST_ROWS = 30
_MOST_KINDS = 12


def strings(dataset: Dataset, column: str) -> Strings:
    """Return a column of the manifest as text; a missing value is empty."""
    return np.array([value or "" for value in dataset.manifest[column].to_pylist()], np.str_)


def splits_table(dataset: Dataset) -> str:
    """Return images and patients of each split."""
    split, patient = strings(dataset, "split"), dataset.patients()
    rows: list[Sequence[Cell]] = []
    for name, images in dataset.info.splits.items():
        patients = len(np.unique(patient[split == name]))
        rows.append(
            (escape(name), share(images, dataset.info.images), share(patients, _patients(dataset)))
        )
    rows.append(("all", dataset.info.images, dataset.info.patients))
    return table("Images and patients of each split", ("split", "images", "patients"), rows)


def label_table(dataset: Dataset, label: Label) -> str:
    """Return how many images of each split have each value of a label, with shares of those known."""
    split, values = strings(dataset, "split"), dataset.labels(label.name)
    names = [name for name, images in dataset.info.splits.items() if images]
    known = {name: values[(split == name) & (values >= 0)] for name in names}
    rows: list[Sequence[Cell]] = []
    for value, meaning in list(enumerate(label.classes))[:_MOST_ROWS]:
        cells = [share(int((known[n] == value).sum()), len(known[n])) for n in names]
        whole = int((values >= 0).sum())
        rows.append((escape(meaning), *cells, share(int((values == value).sum()), whole)))
    if label.missing:
        missing = [int(((split == n) & (values < 0)).sum()) for n in names]
        rows.append(("not known", *missing, label.missing))
    hidden = len(label.classes) - _MOST_ROWS
    quiet = f"and {hidden} more classes" if hidden > 0 else ""
    kind = {
        "binary": "yes or no",
        "classes": "exclusive classes",
        "ordinal": "grades in their order",
    }
    return table(
        f"Label {label.name} ({kind[label.kind]}): images",
        (label.name, *names, "all"),
        rows,
        quiet=quiet,
    )


def folds_table(dataset: Dataset) -> str:
    """Return images and patients of each fold; nothing without folds."""
    fold = dataset.manifest["fold"].to_numpy()
    if not (fold >= 0).any():
        return ""
    patient = dataset.patients()
    rows = [
        (str(k), int((fold == k).sum()), len(np.unique(patient[fold == k])))
        for k in range(int(fold.max()) + 1)
    ]
    return table("Folds for cross-validation", ("fold", "images", "patients"), rows)


def kinds_table(dataset: Dataset, column: str, title: str) -> str:
    """Return how often each value of a column occurs in each split; nothing if none is known."""
    split, values = strings(dataset, "split"), strings(dataset, column)
    if not (values != "").any():
        return ""
    names = [name for name, images in dataset.info.splits.items() if images]
    counts = Counter(values.tolist())
    rows: list[Sequence[Cell]] = [
        (
            escape(value) or "not known",
            *(int(((values == value) & (split == name)).sum()) for name in names),
            share(count, len(values)),
        )
        for value, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[
            :_MOST_KINDS
        ]
    ]
    hidden = len(counts) - _MOST_KINDS
    quiet = f"and {hidden:,} more" if hidden > 0 else ""
    return table(f"{title}: images", (title.lower(), *names, "all"), rows, quiet=quiet)


def sizes_table(dataset: Dataset) -> str:
    """Return the commonest sizes of the sources."""
    rows_, columns = (
        dataset.manifest[name].to_numpy() for name in ("source_rows", "source_columns")
    )
    counts = Counter(zip(columns.tolist(), rows_.tolist(), strict=True))
    rows = [
        (f"{width:,} × {height:,}", share(count, len(columns)))
        for (width, height), count in counts.most_common(8)
    ]
    hidden = len(counts) - len(rows)
    quiet = f"and {hidden:,} more sizes" if hidden > 0 else ""
    return table("Size of the sources: images", ("width × height, px", "images"), rows, quiet=quiet)


def _patients(dataset: Dataset) -> int:
    return dataset.info.patients
