"""What is looked at: a package with its torch network put together again, and one prepared image."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_schemas import settings
from data_schemas.card import Card
from data_schemas.errors import PackageError, UsageError
from data_schemas.files import sha256
from data_schemas.plan import Beside, NetworkPlan, Plan
from pipeline.imaging.picture import picture
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import read
from pipeline.ingest.store import Dataset
from pipeline.model.decision import output_of, positive_probability
from pipeline.model.package import Package, verification
from pipeline.model.runtime import Runtime
from pipeline.model.sums import WEIGHTS
from pipeline.train.ensemble import VIEWS, answering
from pipeline.train.networks import EvidenceNetwork, build

TOLERANCE = 1e-4
"""Largest |logit of the network put together - logit of the package| allowed; as at export."""

LOOKED_THROUGH = 64
"""Tune images among which the typical one is looked for."""

STRIDES = (32, 16, 8)


@dataclass(frozen=True, slots=True)
class Subject:
    """A package and its network, in evaluation mode on the processor."""

    package: Package
    whole: nn.Module  # what the package's graph computes
    network: EvidenceNetwork  # the one that is looked at: the whole, or its first member
    members: int
    views: str
    difference: float  # largest |logit here - logit stored in the package|


@dataclass(frozen=True, slots=True)
class Seen:
    """One prepared image, and what a reader sees of its source."""

    pixels: NDArray[np.uint8]  # [S, S, C]
    picture: NDArray[np.uint8]  # [H, W, 3]: the source, or the prepared image where there is none
    region: tuple[int, int, int, int]  # of `pixels` on `picture`: top, left, height, width
    name: str  # a digest or a row; never a file's name, which may be a patient's
    says: str  # where it comes from and what was done to it
    rows: int  # of the source; 0: not known
    columns: int
    truth: dict[str, str]  # label -> class, where the data set knows it
    row: int = -1  # of the data set's manifest
    sufficient: bool = True  # whether the contract finds its quality sufficient


def put_together(package: Package, plan_file: Path | None) -> Subject:
    """Return the package's torch network, with its weights, checked against its stored answers.

    Parameters
    ----------
    plan_file
        The run's plan; without it the network is found by the card's backbone, the shapes of the
        weights and the answers that the package keeps.

    Raises
    ------
    PackageError
        If no network of this hilum fits the weights, or it answers otherwise than the package.
    """
    tensors = safetensors.torch.load(package.read(WEIGHTS))
    stored = verification(package)
    images = torch.from_numpy(stored.images)
    nearest = float("inf")
    for plan in _plans(package.card, plan_file, tensors):
        whole = _built(plan, package.card, tensors)
        if whole is None:
            continue
        with torch.no_grad():
            logits = whole(images)[0].numpy()
        difference = float(np.max(np.abs(logits - stored.logits)))
        if difference <= TOLERANCE:
            members = [part for part in whole.modules() if isinstance(part, EvidenceNetwork)]
            views = plan.network.views
            return Subject(package, whole, members[0], len(members), views, difference)
        nearest = min(nearest, difference)
    if nearest < float("inf"):
        raise PackageError(
            f"the network put together from the weights answers otherwise than the package, by {nearest:.3g}",
            where=package.folder,
            mend="give the id of the run, whose plan says how the network is built",
        )
    raise PackageError(
        f"its weights fit no `{package.card.backbone}` of this hilum",
        where=package.folder / WEIGHTS,
        mend="give the id of the run, or look with the version that trained it: "
        f"{package.card.hilum_version}",
    )


def _plans(card: Card, plan_file: Path | None, tensors: Mapping[str, Tensor]) -> Iterator[Plan]:
    """Yield what the network may be: the plan's, or all that the weights' names leave open."""
    if plan_file is not None:
        # only what the network is: a plan of another version may hold other keys elsewhere
        tree = settings.from_file(plan_file).tree
        given: dict[str, Any] = {part: tree[part] for part in ("network", "beside") if part in tree}
        yield settings.resolve(Plan, [settings.Layer(given)])
        return
    first, _, second = card.backbone.partition("+")
    members, others = _members(tensors)
    for stride in STRIDES:
        # the rule of a second kind: 32 px for each cell of the first one's map
        beside = Beside(backbone=second, members=max(1, others), size=32 * (card.size // stride))
        for views in VIEWS:
            network = NetworkPlan(backbone=first, stride=stride, views=views, members=members)
            yield Plan(network=network, beside=beside if second else Beside())


def _members(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return how many networks are of the first one's kind, and how many are of another."""
    shapes: dict[str, dict[str, torch.Size]] = {}
    for name, value in tensors.items():
        if name.startswith("members."):
            _, number, own = name.split(".", 2)
            shapes.setdefault(number, {})[own] = value.shape
    alike = sum(own == shapes["0"] for own in shapes.values())
    return max(1, alike), len(shapes) - alike


def _built(plan: Plan, card: Card, tensors: Mapping[str, Tensor]) -> nn.Module | None:
    """Return the planned network with these weights; ``None`` if they don't fit."""
    columns = sum(len(output.columns) for output in card.outputs)
    members = [build(one.network, columns, card.size).eval() for one in plan.each()]
    if len({member.cells(card.size) for member in members}) > 1:
        return None
    counts = [kind.network.members for kind in plan.kinds()]
    whole = answering(members, plan.network.views, counts)
    shapes = {name: value.shape for name, value in whole.state_dict().items()}
    if shapes != {name: value.shape for name, value in tensors.items()}:
        return None
    whole.load_state_dict(dict(tensors))
    return whole


def from_file(file: Path, package: Package) -> Seen:
    """Read and prepare one file as the package's contract says: the one pixel road.

    Raises
    ------
    UsageError
        If there is no such file.
    ImageError
        If it doesn't become an image under the contract.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError("the image can't be read", where=file) from error
    instance = read(data, package.contract)
    prepared = prepare(instance, package.contract)
    top, left, height, width = prepared.region
    contract = package.contract
    crop = {"fundus_field": "cut to the field of view and black outside it"}.get(
        contract.region, f"region “{contract.region}”, fit “{contract.fit}”"
    )
    says = (
        f"A {instance.format.upper()} of {instance.rows} × {instance.columns} pixels, {crop}: its rows "
        f"{top} to {top + height - 1} and columns {left} to {left + width - 1}, resized to "
        f"{contract.size} × {contract.size} by the contract “{contract.name}”."
    )
    if top < 0 or left < 0 or top + height > instance.rows or left + width > instance.columns:
        says += " What reaches beyond the source is black."
    if not prepared.quality.sufficient:
        says += f" The contract finds its quality insufficient ({', '.join(prepared.quality.reasons)}): a service would give no verdict."
    name = f"image {sha256(data)[:12]}"
    return Seen(
        prepared.pixels,
        picture(instance),
        prepared.region,
        name,
        says,
        instance.rows,
        instance.columns,
        {},
        sufficient=prepared.quality.sufficient,
    )


def typical(dataset: Dataset, package: Package, runtime: Runtime) -> Seen:
    """Return a typical image of the tune split: of its first positives, the one of median score.

    Positive by the primary label; where none is, of all images. At most :data:`LOOKED_THROUGH`
    images are scored.

    Raises
    ------
    UsageError
        If the data set was prepared otherwise than the package wants, or has no tune image.
    """
    card = package.card
    if dataset.contract.digest() != card.contract_sha256:
        raise UsageError(
            "the data set was prepared by another contract than the package's",
            where=dataset.folder,
            mend="name the run's own data set, or an image file",
        )
    rows = dataset.indices("tune")
    if not len(rows):
        raise UsageError(
            "its tune split is empty",
            where=dataset.folder,
            mend="name an image: hilum look RUN IMAGE",
        )
    known = {label.name for label in dataset.info.labels}
    among = "the tune split"
    if card.primary in known:
        positive = output_of(card, card.primary).positive_classes
        ill = rows[np.isin(dataset.labels(card.primary)[rows], positive)]
        if len(ill):
            rows, among = ill, f"the tune split's images with “{card.primary}”"
    rows = rows[:LOOKED_THROUGH]
    logits = np.concatenate(
        [runtime.run(dataset.copies(rows[k : k + 1])).logits for k in range(len(rows))]
    )
    order = np.argsort(positive_probability(card, card.primary, logits), kind="stable")
    row = int(rows[order[len(order) // 2]])
    pixels = dataset.copies(np.array([row]))[0]
    size = card.size
    says = (
        f"Row {row} of the data set's manifest: of {among} (the first {len(rows)}), the one with the "
        f"median probability. It is shown as it is stored, {size} × {size}, prepared by the contract "
        f"“{dataset.contract.name}”."
    )
    shown = np.ascontiguousarray(np.broadcast_to(pixels, (size, size, 3)))
    return Seen(
        pixels, shown, (0, 0, size, size), f"row {row}", says, 0, 0, truths(dataset, row), row
    )


def truths(dataset: Dataset, row: int) -> dict[str, str]:
    """Return label -> class of one image, for the labels that are known of it."""
    found = {}
    for label in dataset.info.labels:
        value = int(dataset.labels(label.name)[row])
        if value >= 0:
            found[label.name] = label.classes[value]
    return found
