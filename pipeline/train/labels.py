"""Labels to logits: which columns answer what, the loss, and what class imbalance does to both."""

import difflib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from numpy.typing import NDArray
from torch import Tensor

from data_schemas.card import Output
from data_schemas.dataset import DatasetInfo, Label
from data_schemas.errors import TrainingError
from data_schemas.plan import Plan
from data_schemas.terms import LabelKind

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TEMPER = 0.5
"""Imbalance is countered by 1 / count ** 0.5: a full inverse learns the few rare images by heart."""


@dataclass(frozen=True)
class Head:
    """The outputs of the planned network, in the order of its columns.

    ``kind`` says what the columns are: ``binary``, a sigmoid for each label; ``classes``, one
    softmax; ``ordinal``, a sigmoid for each step of the scale, "this class or a later one".
    """

    outputs: tuple[Output, ...]
    kind: LabelKind
    primary: str
    graded: bool = False  # the classes have an order, however they are learned

    @property
    def columns(self) -> int:
        """Number of logits."""
        return sum(len(output.columns) for output in self.outputs)

    @property
    def primary_index(self) -> int:
        """Which of ``outputs`` is the primary one."""
        return [output.label for output in self.outputs].index(self.primary)


def resolve_head(plan: Plan, info: DatasetInfo) -> Head:
    """Return the outputs that the plan's labels need on this data set.

    Several binary labels become one sigmoid column each; one label of classes becomes a softmax;
    grades, K - 1 sigmoids (``learning.grades``).

    Raises
    ------
    TrainingError
        If a label doesn't exist, kinds are mixed, or the primary label or a class is wrong.
    """
    labels = [_label(name, info) for name in plan.labels or _only_label(info)]
    # the grades of an ordinal label are classes that exclude one another
    kinds = {"binary" if label.kind == "binary" else "classes" for label in labels}
    if len(kinds) > 1 or (kinds == {"classes"} and len(labels) > 1):
        described = ", ".join(f"{label.name} ({label.kind})" for label in labels)
        raise TrainingError(
            f"these labels don't go into one network: {described}",
            where="labels",
            mend="name several binary labels, or one label of classes",
        )
    primary = plan.primary or labels[0].name
    if primary not in {label.name for label in labels}:
        raise TrainingError(
            f"`{primary}` is not one of the labels that are trained",
            where="primary",
            mend=f"choose one of: {', '.join(label.name for label in labels)}",
        )
    # a column of its own is the chance of class 1; where class 0 is the positive one, each class has one
    turned = len(labels) == 1 and plan.positive_classes == (0,)
    if kinds == {"binary"} and not turned:
        outputs = tuple(
            Output(label=x.name, classes=x.classes, columns=(place,), positive_classes=(1,))
            for place, x in enumerate(labels)
        )
        return Head(outputs, "binary", primary)
    only = labels[0]
    output = _classes_output(only, plan.positive_classes)
    if only.kind == "ordinal" and plan.learning.grades == "cumulative":
        # cumulative link (McCullagh 1980): column k - 1 is the log-odds of class k or later
        steps = tuple(range(len(only.classes) - 1))
        output = output.model_copy(update={"columns": steps, "link": "cumulative"})
        return Head((output,), "ordinal", primary, graded=True)
    return Head((output,), "classes", primary, graded=only.kind == "ordinal")


def _only_label(info: DatasetInfo) -> tuple[str, ...]:
    if len(info.labels) == 1:
        return (info.labels[0].name,)
    names = ", ".join(label.name for label in info.labels)
    raise TrainingError(
        f"the data set has {len(info.labels)} labels; the plan must say which to train",
        where="labels",
        mend=f"--set labels=[NAME], one or several of: {names}",
    )


def _label(name: str, info: DatasetInfo) -> Label:
    for label in info.labels:
        if label.name == name:
            return label
    names = [label.name for label in info.labels]
    near = difflib.get_close_matches(name, names, n=1)
    raise TrainingError(
        f"the data set has no label `{name}`",
        where="labels",
        mend=f"did you mean `{near[0]}`?" if near else f"it has: {', '.join(names)}",
    )


def _classes_output(label: Label, positive: tuple[int, ...]) -> Output:
    count = len(label.classes)
    chosen = positive or tuple(range(1, count))
    if not all(0 <= k < count for k in chosen) or len(set(chosen)) >= count:
        raise TrainingError(
            f"positive classes {list(chosen)} of `{label.name}`: must be some, not all, of 0..{count - 1}",
            where="positive_classes",
        )
    return Output(
        label=label.name,
        classes=label.classes,
        columns=tuple(range(count)),
        positive_classes=tuple(sorted(set(chosen))),
    )


@dataclass(frozen=True)
class Balance:
    """What the plan's ``learning.balance`` means on these training labels.

    ``chance`` [n] draws images, ``weight`` [K] weighs columns. Both tilt what the network
    learns towards rare classes; ``shift`` [K] is that tilt in log-odds. It is added to the logits
    inside the loss only, so that the network's own logits stay those of the natural frequencies
    (prior correction, King & Zeng 2001; as part of the loss, Menon et al. 2021).
    """

    chance: Floats | None
    weight: Floats
    shift: Floats
    bias: Floats


def balance(head: Head, targets: Ints, how: str) -> Balance:
    """Work out the balance for training labels ``targets`` [n, L]; -1 is not known and doesn't count."""
    hot, known = _coded(head, targets)
    frequency = (hot.sum(0) + 0.5) / (known.sum(0) + 1.0)
    if head.kind == "classes":
        bias = np.log(frequency) - np.log(frequency).mean()
    else:
        bias = np.log(frequency / (1 - frequency))
    even = Balance(None, np.ones(head.columns), np.zeros(head.columns), bias)
    if how == "loss":
        return _by_loss(head, frequency, even)
    return _by_sampling(head, targets, (hot, known), even) if how == "sampler" else even


def _by_loss(head: Head, frequency: Floats, even: Balance) -> Balance:
    if head.kind == "classes":
        weight = (1 / frequency) ** TEMPER
        weight = weight / np.sum(weight * frequency)  # the mean weight of an image is 1
    else:
        weight = ((1 - frequency) / frequency) ** TEMPER
    return replace(even, weight=weight, shift=np.log(weight))


def _by_sampling(head: Head, targets: Ints, coded: tuple[Floats, Floats], even: Balance) -> Balance:
    hot, known = coded
    primary = targets[:, head.primary_index]
    asked = primary >= 0
    if not asked.any():
        return even
    chance = np.zeros(len(primary))
    chance[asked] = (1.0 / np.bincount(primary[asked])[primary[asked]]) ** TEMPER
    # an image without the primary label is there for the other ones: as often as the mean image
    chance[~asked] = chance[asked].mean()
    chance = chance / chance.sum()
    drawn = np.clip(chance @ hot / np.maximum(chance @ known, 1e-12), 1e-6, 1 - 1e-6)
    natural = np.clip(hot.sum(0) / np.maximum(known.sum(0), 1), 1e-6, 1 - 1e-6)
    if head.kind == "classes":
        shift = np.log(drawn / natural)
    else:
        shift = np.log(drawn / (1 - drawn)) - np.log(natural / (1 - natural))
    return replace(even, chance=chance, shift=shift)


def _coded(head: Head, targets: Ints) -> tuple[Floats, Floats]:
    # columns that are 1, and columns whose value is known
    known = np.asarray(targets >= 0, np.float64)
    if head.kind == "binary":
        return np.asarray(targets == 1, np.float64), known
    if head.kind == "ordinal":
        hot = np.asarray(targets > np.arange(head.columns), np.float64)
    else:
        hot = np.eye(head.columns)[np.maximum(targets[:, 0], 0)] * known
    return hot, np.repeat(known, head.columns, axis=1)


class Objective:
    """Cross-entropy of logits [n, K] with labels [n, L]: sigmoids, or one softmax. -1 doesn't count.

    The sigmoids are of binary labels, or of the steps of a scale of grades: there a label of k asks
    the first k columns for yes and the others for no.
    """

    def __init__(self, head: Head, given: Balance, smoothing: float, device: torch.device) -> None:
        self._kind, self._smoothing = head.kind, smoothing
        self._weight = torch.tensor(given.weight, dtype=torch.float32, device=device)
        self._shift = torch.tensor(given.shift, dtype=torch.float32, device=device)

    def __call__(
        self, logits: Tensor, targets: Tensor, others: Tensor | None = None, share: float = 1.0
    ) -> Tensor:
        """Return the mean loss of a batch over the labels that are known.

        Of images that are a blend, a share of ``share`` goes by ``targets``, the rest by
        ``others``; a label that is not known of one half leaves the loss to the other half.
        """
        logits = logits.float() + self._shift
        loss, count = self._sums(logits, targets)
        if others is None or share == 1.0:
            return loss / count.clamp(min=1)
        more, further = self._sums(logits, others)
        known = share * count + (1 - share) * further
        return (share * loss + (1 - share) * more) / known.clamp(min=1e-6)

    def _sums(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed loss, and over how many known labels (of grades: steps) it goes."""
        known = targets >= 0
        count = known.sum()
        if self._kind != "classes":
            if self._kind == "ordinal":
                targets = (targets > torch.arange(logits.shape[1], device=targets.device)).long()
                count = count * logits.shape[1]
            wanted = targets.clamp(min=0).float() * (1 - self._smoothing) + self._smoothing / 2
            losses = F.binary_cross_entropy_with_logits(
                logits, wanted, pos_weight=self._weight, reduction="none"
            )
            return (losses * known).sum(), count
        # weighed by hand: torch's own weighted mean divides by the batch's weights, so that a
        # batch of rare images only would count no more than any other
        classes = targets[:, 0].clamp(min=0)
        losses = F.cross_entropy(logits, classes, reduction="none", label_smoothing=self._smoothing)
        return (losses * self._weight[classes] * known[:, 0]).sum(), count


def missing_classes(head: Head, targets: Ints, split: str) -> list[str]:
    """Return one sentence for every class of which ``split`` holds no image."""
    notes = []
    for place, output in enumerate(head.outputs):
        own = targets[:, place]
        counts = np.bincount(own[own >= 0], minlength=len(output.classes))
        notes += [
            f"the {split} split holds no image of `{output.label}` = {name}"
            for name, count in zip(output.classes, counts, strict=True)
            if count == 0
        ]
    return notes


def label_matrix(dataset: Any, head: Head) -> Ints:
    """Return the labels of all images [N, L], checked against the classes; -1: not known.

    Raises
    ------
    TrainingError
        If a stored label isn't one of its classes.
    """
    columns = [np.asarray(dataset.labels(output.label), np.int64) for output in head.outputs]
    for output, column in zip(head.outputs, columns, strict=True):
        if len(column) and not -1 <= column.min() <= column.max() < len(output.classes):
            raise TrainingError(
                f"`{output.label}` holds {column.min()}..{column.max()}, "
                f"its classes are 0..{len(output.classes) - 1}",
                mend="ingest the data set again",
            )
    return np.stack(columns, axis=1)
