"""A data set and a plan put together and checked, and what is fitted on held-out images afterwards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_schemas.card import OperatingPoint, Output
from data_schemas.contract import Contract
from data_schemas.dataset import DatasetInfo
from data_schemas.errors import TrainingError
from data_schemas.plan import Plan
from data_schemas.terms import SPLITS, Split
from pipeline.train import labels
from pipeline.train.kinds import refuse_unlike_maps
from pipeline.train.labels import Floats, Ints
from pipeline.train.leaks import Leaks, check_leaks
from pipeline.train.loop import Metrics


class TrainingSet(Protocol):
    """What training needs of a data set; ``pipeline.ingest.store.Dataset`` is one."""

    @property
    def folder(self) -> Path:
        """Where it lies."""

    @property
    def info(self) -> DatasetInfo:
        """Its document."""

    @property
    def contract(self) -> Contract:
        """How its images were prepared."""

    def indices(self, split: Split) -> Ints:
        """Return the manifest rows of a split."""

    def labels(self, name: str) -> Ints:
        """Return one label of all rows."""

    def patients(self) -> NDArray[np.str_]:
        """Return the pseudonym of every row's patient."""

    def pixels(self, indices: Ints) -> NDArray[np.uint8]:
        """Return images [n, S, S, C]."""


@dataclass(frozen=True)
class Task:
    """A data set and a plan, put together and checked: everything that the fit needs."""

    dataset: TrainingSet
    plan: Plan
    head: labels.Head
    targets: Ints  # [N, L], every manifest row; -1: not known
    rows: dict[Split, Ints]  # manifest rows of each split that have a label
    notes: tuple[str, ...]
    leaks: str  # the leak doctor's verdict in a word, for the run's tags

    @property
    def info(self) -> DatasetInfo:
        """The data set's document."""
        return self.dataset.info


@dataclass(frozen=True)
class Calibrated:
    """The decisions fitted on held-out images after training."""

    outputs: tuple[Output, ...]  # with their calibrations
    points: tuple[OperatingPoint, ...]  # the verdict's of each output in order, then further ones
    split: Split  # calibration, or tune where there is none
    logits: Floats
    metrics: Metrics
    notes: tuple[str, ...]


def prepare(dataset: TrainingSet, plan: Plan, leaks: Leaks | None = None) -> Task:
    """Put data set and plan together.

    ``leaks`` is what was found between these splits, where somebody has looked already.

    Raises
    ------
    TrainingError
        If they don't fit, the splits leak, or the training or tuning split has no labelled image.
    """
    leaks = leaks or check_leaks(dataset, accept=plan.accept_leaks)
    head = labels.resolve_head(plan, dataset.info)
    refuse_unlike_maps(plan, head.columns, dataset.info.size)
    targets = labels.label_matrix(dataset, head)
    whole = {split: np.asarray(dataset.indices(split), np.int64) for split in SPLITS}
    rows = {split: own[(targets[own] >= 0).any(axis=1)] for split, own in whole.items()}
    if not len(rows["external"]):
        del rows["external"]
    for split in ("train", "tune"):
        if not len(rows[split]):
            raise TrainingError(
                f"the data set's {split} split holds no image"
                + (" whose label is known" if len(whole[split]) else ""),
                where=dataset.folder,
                mend="ingest more images or with --split stratified, which fills every split; or let "
                "each patient test once: hilum train --folds 5",
            )
    notes = [
        remark
        for split in ("train", "tune", "calibration")
        for remark in labels.missing_classes(head, targets[rows[split]], split)
        if len(rows[split])
    ]
    notes += _without_labels(head, targets, whole)
    return Task(dataset, plan, head, targets, rows, (*notes, *leaks.notes), leaks.tag)


def _without_labels(head: labels.Head, targets: Ints, whole: dict[Split, Ints]) -> list[str]:
    """Say how many images a label is not known of, and that they are left out."""
    notes = []
    for place, output in enumerate(head.outputs):
        counts = {split: int((targets[own, place] < 0).sum()) for split, own in whole.items()}
        if any(counts.values()):
            listed = ", ".join(f"{split} {count}" for split, count in counts.items() if count)
            notes.append(f"`{output.label}` is not known of some images, left out: {listed}")
    return notes
