"""Cross-validation by patient: which images are whose test, and what the others do meanwhile.

In fold f the images of fold f are the test split; the other folds' patients are dealt into train,
tune and calibration, so that nothing is chosen on the images that a fold is measured on. All of it
follows from the data set alone: same data set and plan, same folds.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import TrainingError
from data_schemas.plan import Plan
from data_schemas.progress import Progress
from data_schemas.terms import Split
from pipeline.ingest.leaks.copies import across_splits
from pipeline.ingest.leaks.identity import patients_in_two_splits, pixels_in_two_splits
from pipeline.ingest.leaks.images import SEALED, images_of
from pipeline.ingest.leaks.neighbours import FEWEST, Pair, near_copies
from pipeline.ingest.splits import Stratum, deal
from pipeline.ingest.store import Dataset
from pipeline.train.labels import Ints, resolve_head
from pipeline.train.leaks import Leaks, judged

Strings = NDArray[np.str_]

REST: tuple[Split, ...] = ("train", "tune", "calibration")
TUNE, CALIBRATION = 0.05, 0.1
"""Shares of the other folds' patients; the rest train. That is more than in a data set's own splits,
which must find room for a sealed test split, too. Tune gets least: it chooses nothing where it is
small."""


@dataclass(frozen=True)
class Fold:
    """One fold: the data set under this fold's splits, and what leaks between them."""

    number: int  # from 0
    count: int
    dataset: Dataset
    leaks: Leaks

    @property
    def name(self) -> str:
        """Return how a person calls it: ``fold 2 of 5``."""
        return f"fold {self.number + 1} of {self.count}"


@dataclass(frozen=True)
class Folds:
    """All folds of a data set, and remarks on how they came to be."""

    folds: tuple[Fold, ...]
    notes: tuple[str, ...]


def rest_shares(persons: int) -> list[float]:
    """Return the shares of :data:`REST` among the ``persons`` >= 1 of the other folds."""
    tune = max(TUNE, 1 / max(3, persons))  # of few, one and not none
    return [1 - tune - CALIBRATION, tune, CALIBRATION]


def make_folds(dataset: Dataset, plan: Plan, progress: Progress) -> Folds:
    """Return the ``plan.folds`` folds of everything that is not sealed (test, external).

    The folds that ingestion stored are used where there are so many; else patients are dealt here,
    stratified by the primary label. Patients who share a photograph, or have almost the same ones,
    count as one person. Pixels stay where they are: a fold is another reading of the manifest.

    Raises
    ------
    TrainingError
        If there are too few patients, or copies stand in two splits of a fold and nobody accepts
        it (``plan.accept_leaks``).
    """
    stored = np.array(dataset.manifest["split"].to_pylist(), np.str_)
    free = dataset.resplit(np.where(np.isin(stored, SEALED), "", "train"))
    notes = []
    if len(free.manifest) < dataset.info.images:
        left = dataset.info.images - len(free.manifest)
        notes.append(f"cross-validation: {left} images of sealed splits take no part")
    pairs = _pairs(free, progress)
    person = _persons(free, pairs)
    strata = _strata(free, plan, person)
    place, remark = _places(free, plan.folds, person, strata)
    notes.append(remark)
    made = []
    for number in range(plan.folds):
        splits = _splits(number, place, person, strata)
        own = free.resplit(splits)
        made.append(Fold(number, plan.folds, own, _leaks(own, pairs, accept=plan.accept_leaks)))
    return Folds(tuple(made), tuple(notes))


def _splits(number: int, place: Ints, person: Strings, strata: dict[str, Stratum]) -> Strings:
    """Return every image's split in one fold: its test images, and the others dealt by patient."""
    tested = place == number
    rest = sorted(set(person[~tested].tolist()))
    dealt = deal({one: strata[one] for one in rest}, rest_shares(len(rest)), {})
    splits = np.array([REST[dealt[one]] if one in dealt else "test" for one in person.tolist()])
    splits[tested] = "test"
    return splits


def _places(
    dataset: Dataset, count: int, person: Strings, strata: dict[str, Stratum]
) -> tuple[Ints, str]:
    """Return every image's fold, and a sentence on where it comes from."""
    if dataset.info.folds == count:
        stored: Ints = dataset.manifest["fold"].to_numpy().astype(np.int64)
        return stored, f"cross-validation: the {count} folds that the data set holds"
    if len(strata) < count:
        raise TrainingError(
            f"{len(strata)} patients outside test and external can't make {count} folds",
            where="folds",
            mend=f"ask for at most {len(strata)} folds",
        )
    dealt = deal(strata, [1 / count] * count, {})
    held = f"the data set holds {dataset.info.folds}" if dataset.info.folds else "it holds none"
    return (
        np.array([dealt[one] for one in person.tolist()], np.int64),
        f"cross-validation: {count} folds dealt by patient for this run ({held})",
    )


def _strata(dataset: Dataset, plan: Plan, person: Strings) -> dict[str, Stratum]:
    """Return person -> the highest known value of each label, the primary one first; -1: unknown."""
    head = resolve_head(plan, dataset.info)
    names = [head.primary, *(o.label for o in head.outputs if o.label != head.primary)]
    columns = np.stack([dataset.labels(name) for name in names], axis=1)
    names_of, where = np.unique(person, return_inverse=True)
    highest = np.full((len(names_of), len(names)), -1, np.int64)
    np.maximum.at(highest, where, columns)
    return {str(one): tuple(row) for one, row in zip(names_of, highest.tolist(), strict=True)}


def _persons(dataset: Dataset, pairs: Iterable[Pair]) -> Strings:
    """Return every image's person: the pseudonym that stands for all patients linked to its own.

    Links are photographs that were refused as another's double, and pairs that are almost the same.
    """
    patients = dataset.patients()
    owner = dict(zip(dataset.manifest["pixel_sha256"].to_pylist(), patients.tolist(), strict=True))
    links = [(str(patients[pair.first]), str(patients[pair.second])) for pair in pairs]
    links += [
        (owner[refused["pixel_sha256"]], refused["patient"])
        for refused in dataset.refusals()
        if refused["code"] == "DUPLICATE" and refused["pixel_sha256"] in owner
    ]
    stands_for = {str(patient): str(patient) for patient in patients}

    def first(patient: str) -> str:
        while stands_for[patient] != patient:
            patient = stands_for[patient]
        return patient

    for one, other in links:
        if one in stands_for and other in stands_for:
            low, high = sorted((first(one), first(other)))
            stands_for[high] = low
    return np.array([first(str(patient)) for patient in patients], np.str_)


def _pairs(dataset: Dataset, progress: Progress) -> list[Pair]:
    count = dataset.info.images
    return near_copies(dataset.copies, count, progress) if count >= FEWEST else []


def _leaks(dataset: Dataset, pairs: list[Pair], *, accept: bool) -> Leaks:
    images = images_of(dataset)
    blocking = [
        *patients_in_two_splits(images),
        *pixels_in_two_splits(images),
        *across_splits(images, pairs),
    ]
    found = [one for one in blocking if one.severity == "blocks"]
    return judged(found, Leaks("none between the folds"), dataset.folder, accept=accept)
