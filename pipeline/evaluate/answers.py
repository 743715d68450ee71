"""What the model answers about one split: the package's own graph and decisions, beside the truth."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data_schemas.card import Card, OperatingPoint, Output
from data_schemas.errors import DatasetError
from data_schemas.progress import Progress
from data_schemas.terms import Split, Verdict
from pipeline.ingest.store import Dataset
from pipeline.model import decision
from pipeline.model.cores import available_cores
from pipeline.model.package import Package
from pipeline.model.runtime import Runtime

BATCH_PIXELS = 16 * 224**2
"""Pixels of the images of one run: a network's maps grow with them, and each core has its own."""


@dataclass(frozen=True, slots=True)
class LabelAnswers:
    """One label of a split: truth and answer of every image whose label is known."""

    output: Output
    point: OperatingPoint | None  # the default one
    points: tuple[OperatingPoint, ...]  # all of them
    truth: NDArray[np.int64]  # class, [N]
    positive: NDArray[np.int64]  # 1 where the class counts as positive, [N]
    probability: NDArray[np.float64]  # calibrated, of being positive, [N]
    uncalibrated: NDArray[np.float64]  # the same before temperature and shift, [N]
    classes: NDArray[np.float64]  # calibrated, [N, classes]
    answer: NDArray[np.int64]  # class answered, [N]
    rows: NDArray[np.int64]  # which images of the split these are, [N]

    @property
    def label(self) -> str:
        """Return the label's name."""
        return self.output.label

    @property
    def for_truth(self) -> NDArray[np.float64]:
        """Return the probability that each image's true class was given, [N]."""
        given: NDArray[np.float64] = self.classes[np.arange(self.truth.size), self.truth]
        return given

    @property
    def exclusive(self) -> bool:
        """Return whether the label has exclusive classes and not one yes or no."""
        return len(self.output.columns) > 1


@dataclass(frozen=True, slots=True)
class SplitAnswers:
    """A whole split."""

    split: Split
    indices: NDArray[np.int64]  # rows of the manifest
    patients: NDArray[np.str_]
    logits: NDArray[np.float32]  # [N, K]
    verdicts: list[Verdict]
    labels: tuple[LabelAnswers, ...]
    primary: str
    runtime: str
    unlabelled: int = 0  # images of the split of which no label is known: left out

    def of_primary(self) -> LabelAnswers:
        """Return the label of the verdict."""
        return next(found for found in self.labels if found.label == self.primary)


def check_fit(package: Package, dataset: Dataset) -> None:
    """Refuse a data set that isn't the one whose test split was kept apart for this model.

    Raises
    ------
    DatasetError
        If the content or the contract differs, or a label is missing or has other classes.
    """
    card, info = package.card, dataset.info
    if info.content_sha256 != card.dataset_sha256:
        raise DatasetError(
            f"its content is {info.content_sha256[:12]}, the model was trained on "
            f"{card.dataset_sha256[:12]} ({card.dataset_name})",
            where=dataset.folder,
            mend="name the data set that the run was trained on: --dataset FOLDER",
        )
    if info.contract_sha256 != card.contract_sha256:
        raise DatasetError(
            f"its images were prepared by contract {info.contract_sha256[:12]}, "
            f"the model takes {card.contract_sha256[:12]}",
            where=dataset.folder,
        )
    known = {label.name: len(label.classes) for label in info.labels}
    for output in card.outputs:
        if known.get(output.label) != len(output.classes):
            raise DatasetError(
                f"label `{output.label}` has {known.get(output.label, 0)} classes here, "
                f"{len(output.classes)} in the model",
                where=dataset.folder,
            )


def answer_split(
    package: Package, dataset: Dataset, split: Split, progress: Progress
) -> SplitAnswers:
    """Score every image of a split through the package's ONNX Runtime.

    Raises
    ------
    DatasetError
        If the data set doesn't fit the package, or the split has no image with a label.
    """
    check_fit(package, dataset)
    everything = np.asarray(dataset.indices(split), dtype=np.int64)
    if everything.size == 0:
        raise DatasetError(f"the split `{split}` has no images", where=dataset.folder)
    known = [dataset.labels(output.label)[everything] >= 0 for output in package.card.outputs]
    indices = everything[np.any(known, axis=0)]
    if indices.size == 0:
        raise DatasetError(f"the split `{split}` has no labelled image", where=dataset.folder)
    runtime = Runtime(package, threads=1)
    logits = np.empty((indices.size, _columns(package.card)), np.float32)
    done = 0
    for rows, found in _in_batches(runtime, dataset, indices):
        logits[rows] = found
        done += len(found)
        progress(done, indices.size, f"scoring the {split} split")
    card = package.card
    return SplitAnswers(
        split=split,
        indices=indices,
        patients=np.asarray(dataset.patients())[indices].astype(np.str_),
        logits=logits,
        verdicts=decision.verdicts(card, logits),
        labels=tuple(
            answers_of(card, output, np.asarray(dataset.labels(output.label))[indices], logits)
            for output in card.outputs
        ),
        primary=card.primary,
        runtime=runtime.identity,
        unlabelled=int(everything.size - indices.size),
    )


def without(answers: SplitAnswers, left_out: NDArray[np.bool_]) -> SplitAnswers:
    """Return the answers without some images of the split; ``left_out`` is [N]."""
    keep = np.flatnonzero(~left_out)
    place = np.full(left_out.size, -1, np.int64)
    place[keep] = np.arange(keep.size)
    labels = []
    for label in answers.labels:
        own = np.flatnonzero(~left_out[label.rows])
        arrays = ("truth", "positive", "probability", "uncalibrated", "classes", "answer")
        fewer = {name: getattr(label, name)[own] for name in arrays}
        labels.append(replace(label, rows=place[label.rows[own]], **fewer))
    return replace(
        answers,
        indices=answers.indices[keep],
        patients=answers.patients[keep],
        logits=answers.logits[keep],
        verdicts=[answers.verdicts[k] for k in keep],
        labels=tuple(labels),
    )


def answers_of(
    card: Card, output: Output, truth: NDArray[np.int64], logits: NDArray[np.float32]
) -> LabelAnswers:
    """Return one label's answers, for the images whose ``truth`` isn't -1.

    A binary label says yes at or above its operating point's ``high``.
    """
    rows = np.flatnonzero(np.asarray(truth) >= 0)
    truth, logits = np.asarray(truth)[rows], logits[rows]
    classes = decision.probabilities(card, logits)[output.label]
    probability = decision.positive_probability(card, output.label, logits)
    plain = output.model_copy(update={"temperature": 1.0, "shift": ()})
    point = decision.point_of(card, output.label)
    if len(output.columns) > 1:
        answer = decision.classes_of(output, logits)
    else:
        yes = probability >= (0.5 if point is None else point.high)
        (positive,) = output.positive_classes
        answer = np.where(yes, positive, 1 - positive)
    return LabelAnswers(
        output=output,
        point=point,
        points=decision.points_of(card, output.label),
        truth=truth.astype(np.int64),
        positive=np.isin(truth, output.positive_classes).astype(np.int64),
        probability=probability,
        uncalibrated=decision.of_positive(plain, logits),
        classes=classes,
        answer=answer.astype(np.int64),
        rows=rows,
    )


def _in_batches(
    runtime: Runtime, dataset: Dataset, indices: NDArray[np.int64]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    batch = max(1, BATCH_PIXELS // dataset.info.size**2)
    slices = [slice(start, start + batch) for start in range(0, indices.size, batch)]

    def logits(rows: slice) -> NDArray[np.float32]:
        return runtime.run(dataset.pixels(indices[rows])).logits

    # one thread a run, one run a core: a CPU gains nothing from larger batches
    with ThreadPoolExecutor(available_cores()) as pool:
        yield from zip(slices, pool.map(logits, slices), strict=True)


def _columns(card: Card) -> int:
    return sum(len(output.columns) for output in card.outputs)
