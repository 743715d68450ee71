"""Measures a data set: what there is of what, how bright it is, and what it was before."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from data_schemas.dataset import Label
from data_schemas.fingerprint import Cut, Fingerprint, Intensity, LabelFacts, Machine, Spread
from data_schemas.terms import SPLITS, Split
from pipeline.ingest.store import Dataset
from pipeline.train.plan.machine import measure_machine

LOOKED_AT = 256
"""Training images whose brightness is measured; evenly spaced, so it is always the same ones."""
BLACK = 10
"""Up to this value (of 255) a pixel counts as black: compression leaves a little noise in it."""
SAME = 0.98
"""From this agreement on, a binary label counts as an ordinal one cut in two."""

Ints = NDArray[np.int64]


def measure(dataset: Dataset, machine: Machine | None = None) -> Fingerprint:
    """Return the fingerprint of a data set on this machine (or another one's, given).

    Everything that looks at pixels or at more than counts looks at the training split only.
    """
    info, contract = dataset.info, dataset.contract
    splits = {split: np.asarray(dataset.indices(split), np.int64) for split in SPLITS}
    patients = dataset.patients()
    return Fingerprint(
        dataset=info.name,
        dataset_sha256=info.content_sha256,
        contract=contract.name,
        region=contract.region,
        modalities=_counted(dataset, "modality"),
        formats=_counted(dataset, "format"),
        size=info.size,
        channels=info.channels,
        images={split: len(rows) for split, rows in splits.items()},
        patients={split: len(set(patients[rows])) for split, rows in splits.items()},
        images_per_patient=_spread(list(Counter(patients.tolist()).values())),
        source_side=_source_side(dataset),
        laterality_known=_share_with_side(dataset),
        folds=info.folds,
        labels=_labels(dataset, splits),
        intensity=measure_intensity(dataset, splits["train"]),
        machine=machine or measure_machine(),
    )


def measure_intensity(dataset: Dataset, rows: Ints) -> Intensity:
    """Return the brightness of at most :data:`LOOKED_AT` of the images ``rows``, evenly spaced."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows))).astype(int))]
    channels = dataset.info.channels
    total, squares = np.zeros(channels), np.zeros(channels)
    black = pixels = 0
    colour = 0.0
    for start in range(0, len(chosen), 16):
        images = dataset.copies(chosen[start : start + 16])
        values = images.reshape(-1, channels).astype(np.float64)
        total += values.sum(0)
        squares += np.square(values).sum(0)
        colour += float(np.abs(values - values.mean(1, keepdims=True)).mean(1).sum())
        border = black_border(images)
        black, pixels = black + int(border.sum()), pixels + border.size
    if not pixels:
        nothing = (0.0,) * channels
        return Intensity(images=0, mean=nothing, sd=nothing, colour=0.0, black_border=0.0)
    mean = total / pixels
    sd = np.sqrt(np.maximum(squares / pixels - np.square(mean), 0))
    return Intensity(
        images=len(chosen),
        mean=tuple(round(float(value), 2) for value in mean),
        sd=tuple(round(float(value), 2) for value in sd),
        colour=round(colour / pixels, 3),
        black_border=round(black / pixels, 4),
    )


def black_border(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which pixels [N, H, W] of images [N, H, W, C] are black from left or right inwards."""
    dark = images.max(axis=3) <= BLACK
    from_left = np.logical_and.accumulate(dark, axis=2)
    from_right = np.logical_and.accumulate(dark[:, :, ::-1], axis=2)[:, :, ::-1]
    return np.asarray(from_left | from_right)


def _counted(dataset: Dataset, column: str) -> dict[str, int]:
    values = Counter(str(value or "") for value in dataset.manifest[column].to_pylist())
    return {name: values[name] for name in sorted(values) if name}


def _source_side(dataset: Dataset) -> Spread | None:
    rows, columns = (
        np.asarray(dataset.manifest[name].fill_null(0).to_numpy(), np.int64)
        for name in ("source_rows", "source_columns")
    )
    sides = np.minimum(rows, columns)
    return _spread(sides[sides > 0].tolist())


def _share_with_side(dataset: Dataset) -> float:
    sides = dataset.manifest["laterality"].to_pylist()
    return round(sum(side in ("L", "R") for side in sides) / max(1, len(sides)), 4)


def _spread(values: list[int]) -> Spread | None:
    if not values:
        return None
    return Spread(low=min(values), median=float(np.median(values)), high=max(values))


def _labels(dataset: Dataset, splits: dict[Split, Ints]) -> tuple[LabelFacts, ...]:
    values = {label.name: dataset.labels(label.name) for label in dataset.info.labels}
    binary = [label.name for label in dataset.info.labels if label.kind == "binary"]
    train = splits["train"]
    return tuple(
        LabelFacts(
            name=label.name,
            kind=label.kind,
            classes=label.classes,
            counts={
                str(split): _counts(label, values[label.name][at]) for split, at in splits.items()
            },
            missing={
                split: int((values[label.name][at] < 0).sum()) for split, at in splits.items()
            },
            cut=best_cut(values[label.name][train], {name: values[name][train] for name in binary})
            if label.kind == "ordinal"
            else None,
        )
        for label in dataset.info.labels
    )


def _counts(label: Label, values: Ints) -> tuple[int, ...]:
    counts = np.bincount(values[values >= 0], minlength=len(label.classes))
    return tuple(int(count) for count in counts)


def best_cut(grades: Ints, binary: dict[str, Ints]) -> Cut | None:
    """Return the binary label that is ``grades >= k`` for some k, if one is; -1 is not known.

    Both classes must occur, and :data:`SAME` of the images agree. Of several, the best; of equally
    good ones, the first.
    """
    found: Cut | None = None
    for name, values in binary.items():
        both = (grades >= 0) & (values >= 0)
        own, other = grades[both], values[both]
        if len(set(other.tolist())) < 2:
            continue
        for grade in range(1, int(own.max()) + 1):
            agreement = float(((own >= grade) == (other == 1)).mean())
            if agreement >= SAME and (found is None or agreement > found.agreement):
                found = Cut(label=name, grade=grade, agreement=round(agreement, 6))
    return found
