"""Does the evidence point at the lesion? The pointing game, beside chance and beside permuted weights.

A map is right when the centre of its strongest cell lies inside the lesion mask, dilated by 5 % of
the width (Zhang et al. 2018, "Top-down neural attention by excitation backprop", use a fixed margin
in the same way). A network whose weights were shuffled sees the same picture and the same masks: what
it still finds is what chance and the picture's layout give away (Adebayo et al. 2018).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.card import Interval
from data_schemas.errors import UsageError
from pipeline.evaluate.statistics import proportion
from pipeline.model import decision
from pipeline.model.package import (
    Package,
    Verification,
    open_package,
    pack_verification,
    verification,
    write_package,
)
from pipeline.model.runtime import Runtime
from pipeline.model.scoring import explained_class
from pipeline.model.session import open_session
from pipeline.model.sums import GRAPH, KEPT_FILES

MARGIN = 0.05
"""Dilation of the mask, as a share of the image's width."""

BATCH = 16


@dataclass(frozen=True, slots=True)
class Localisation:
    """The pointing game on the true positives of one label."""

    label: str
    found: Interval  # share of true positives whose strongest cell lies in the mask
    permuted: Interval  # the same images and masks, a network with permuted weights
    chance: float | None  # mean share of cells that would have been right


def localise(
    package: Package,
    shuffled: Package,
    images: NDArray[np.uint8],
    positive: NDArray[np.integer[Any]],
    masks: NDArray[np.bool_],
    *,
    label: str,
) -> Localisation:
    """Play the pointing game.

    Parameters
    ----------
    package, shuffled
        The model, and the same with permuted weights (:func:`permuted`).
    images
        Prepared images, uint8 [N, S, S, C].
    positive
        1 where the truth is positive, [N].
    masks
        Where the lesions are, in the prepared array's pixels, [N, S, S].
    label
        Whose evidence is looked at. True positives are those of ``package``: truth positive,
        probability at or above its operating point, and a lesion in the mask.

    Raises
    ------
    UsageError
        If the arrays don't fit each other, or the label has no operating point.
    """
    if not len(images) == len(positive) == len(masks) or masks.shape[1:] != images.shape[1:3]:
        raise UsageError(
            f"{list(images.shape)} images, {len(positive)} truths and masks {list(masks.shape)} "
            "don't belong together"
        )
    point = decision.point_of(package.card, label)
    if point is None:
        raise UsageError(f"`{label}` has no operating point: nothing is a true positive")
    logits, grids = _answers(package, images, label)
    called = decision.positive_probability(package.card, label, logits) >= point.high
    chosen = np.flatnonzero(called & (np.asarray(positive) == 1) & masks.any(axis=(1, 2)))
    _, other = _answers(shuffled, images[chosen], label)
    hits = pointing(grids[chosen], masks[chosen])
    shuffled_hits = pointing(other, masks[chosen])
    cells = [_cells_inside(mask, grids.shape[1:]).mean() for mask in masks[chosen]]
    return Localisation(
        label=label,
        found=proportion(int(hits.sum()), hits.size),
        permuted=proportion(int(shuffled_hits.sum()), shuffled_hits.size),
        chance=float(np.mean(cells)) if cells else None,
    )


def pointing(
    grids: NDArray[np.floating[Any]], masks: NDArray[np.bool_], margin: float = MARGIN
) -> NDArray[np.bool_]:
    """Return whether each map's strongest cell has its centre in the dilated mask.

    Parameters
    ----------
    grids
        Evidence maps [N, h, w] over the whole of the image.
    masks
        [N, S, S].
    margin
        Dilation as a share of the width, by a disc.
    """
    right = np.zeros(len(grids), dtype=np.bool_)
    for index, (grid, mask) in enumerate(zip(grids, masks, strict=True)):
        right[index] = _cells_inside(mask, grid.shape, margin).ravel()[int(np.argmax(grid))]
    return right


def permuted(package: Package, seed: int, folder: Path) -> Package:
    """Write the same package with the elements of each weight tensor permuted.

    Every tensor keeps its values, so ranges and statistics of layers stay plausible; only what was
    learnt is gone. Needs ``onnx`` (extra ``train``).

    Parameters
    ----------
    package
        The trained model.
    seed
        Of the permutation.
    folder
        Where the new package goes; must not exist, or be empty.
    """
    import onnx
    import safetensors.numpy

    model = onnx.load_from_string(package.read(GRAPH))
    generator = np.random.default_rng(seed)
    weights: dict[str, NDArray[Any]] = {}
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype.kind != "f" or values.size < 2:
            continue
        weights[tensor.name] = generator.permutation(values.ravel()).reshape(values.shape)
        tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    graph: bytes = model.SerializeToString(deterministic=True)
    images = verification(package).images
    session = open_session(graph)
    logits, evidence = session.run(("logits", "evidence"), {"images": images})
    bias = np.median(logits - evidence.mean((2, 3)), axis=0)
    stored = pack_verification(Verification(images, logits, bias))
    note = f"weights permuted with seed {seed}: for comparison only, this model knows nothing"
    card = package.card.model_copy(
        update={"evaluation": None, "notes": (*package.card.notes, note)}
    )
    content = (graph, safetensors.numpy.save(weights), stored)
    write_package(folder, dict(zip(KEPT_FILES, content, strict=True)), card, package.contract)
    return open_package(folder)


def _answers(
    package: Package, images: NDArray[np.uint8], label: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    runtime = Runtime(package)
    output = decision.output_of(package.card, label)
    logits, grids = [], []
    for start in range(0, len(images), BATCH):
        found = runtime.run(images[start : start + BATCH])
        logits.append(found.logits)
        for row, maps in zip(found.logits, found.evidence, strict=True):
            grids.append(maps[explained_class(output, row)[1]])
    if not grids:
        columns = sum(len(own.columns) for own in package.card.outputs)
        return np.zeros((0, columns), np.float32), np.zeros((0, 1, 1), np.float32)
    return np.concatenate(logits), np.stack(grids)


def _cells_inside(
    mask: NDArray[np.bool_], shape: tuple[int, ...], margin: float = MARGIN
) -> NDArray[np.bool_]:
    """Return for each cell of a [h, w] map whether its centre lies in the dilated mask."""
    from scipy.ndimage import distance_transform_edt

    if not mask.any():
        return np.zeros(shape, dtype=np.bool_)
    near = distance_transform_edt(~mask) <= margin * mask.shape[1]
    rows, columns = (
        ((np.arange(cells) + 0.5) * side / cells).astype(int)
        for cells, side in zip(shape, mask.shape, strict=True)
    )
    return np.asarray(near[np.ix_(rows, columns)], dtype=np.bool_)
