"""Everything that the page shows, as one tree of plain values, and the checks made on the way."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_schemas.errors import PackageError
from data_schemas.progress import Progress, silent
from data_schemas.terms import Verdict
from pipeline.model import decision
from pipeline.model.package import Package
from pipeline.model.runtime import Runtime
from pipeline.model.scoring import explained_class
from pipeline.train.backbones import LocalContrast
from pipeline.train.ensemble import VIEWS
from pipeline.train.look import answer, pictures, receptive
from pipeline.train.look.passing import FirstLayer, Floats, Passing, Stage
from pipeline.train.look.pictures import number
from pipeline.train.look.subject import TOLERANCE, Seen, Subject

KEPT_BYTES = 600_000
"""Of exact first-layer maps; where all don't fit, those that vary most are kept."""

DARK = 24
"""Values below it are surroundings rather than picture, where a first look is chosen."""

DEAD = 1e-3
"""Share of the strongest filter below which a filter's picture isn't blown up to full colour."""

CHANNELS_SHOWN = 8
GRID = 5
SUM_TOLERANCE = 1e-5
"""Of a float32 sum against the same in float64, as a share of its terms' sizes."""


@dataclass(frozen=True, slots=True)
class Check:
    """Two ways to the same numbers, and how far they are apart."""

    what: str
    apart: float
    allowed: float


def contents(
    subject: Subject,
    seen: Seen,
    passing: Passing,
    runtime: Runtime,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Return the page's tree.

    Raises
    ------
    PackageError
        If two ways to the same number disagree: such a page would teach something untrue.
    """
    card = subject.package.card
    ran = runtime.run(seen.pixels[None])
    found = answer.Answered(ran.evidence[0], runtime.bias, ran.logits[0])
    made = _checks(subject, passing, found)
    wrong = [check for check in made if not check.apart <= check.allowed]
    if wrong:
        raise PackageError(
            "; ".join(f"{c.what}: {c.apart:.3g} apart, allowed {c.allowed:.3g}" for c in wrong),
            where=subject.package.folder,
            mend="report it: a page with these numbers would be wrong",
        )
    side = int(passing.pixels.shape[-1])
    return {
        "schema_version": 1,
        "model": {
            "name": card.name,
            "run": card.run_id,
            "backbone": card.backbone,
            "parameters": card.parameters,
            "package": subject.package.sha256,
            "members": subject.members,
            "views": len(VIEWS[subject.views]),
            "member_logits": [number(value) for value in passing.logits],
        },
        "image": _image(seen, side),
        "first": _first(subject, passing, seen),
        "stages": [_stage(stage, side) for stage in passing.stages],
        "field": _fields(subject, passing, progress),
        "gates": passing.gates,
        "contrast": any(isinstance(m, LocalContrast) for m in subject.network.modules()),
        "answer": {
            "primary": card.primary,
            "verdict": _verdict(subject.package, found.logits, ran.embedding[0], seen),
            "outputs": answer.outputs_tree(card, found, seen),
        },
        "checks": [
            {"what": c.what, "apart": float(f"{c.apart:.3g}"), "allowed": float(f"{c.allowed:.3g}")}
            for c in made
        ],
    }


def _verdict(
    package: Package,
    logits: NDArray[np.float32],
    embedding: NDArray[np.float32],
    seen: Seen,
) -> Verdict:
    """Return what a service would answer."""
    if not seen.sufficient:
        return decision.not_assessed(package.card).verdict
    decided = decision.decide(package.card, logits)
    reference = package.reference
    outside = reference is not None and not reference.see(embedding, seen.pixels).scope.inside
    return (decision.out_of_scope(decided) if outside else decided).verdict


def _image(seen: Seen, side: int) -> dict[str, Any]:
    return {
        "name": seen.name,
        "says": seen.says,
        "size": seen.pixels.shape[0],
        "channels": seen.pixels.shape[2],
        "side": side,
        "values": pictures.packed(seen.pixels),
        "png": pictures.photograph(seen.pixels),
        "truth": seen.truth,
        "best": _busiest(seen.pixels),
    }


def _busiest(pixels: NDArray[np.uint8]) -> list[int]:
    """Return row and column of the 8x8 block whose values differ most: where to look first."""
    count = len(pixels) // 8
    blocks = pixels[: count * 8, : count * 8].reshape(count, 8, count, 8, -1)
    spread = blocks.astype(np.float32).mean(4).std(axis=(1, 3))
    # not where a camera's mask, or the picture, ends
    dark = np.pad((blocks.max(4) < DARK).any(axis=(1, 3)), 1, constant_values=True)
    near = [
        dark[1 + r : 1 + r + count, 1 + c : 1 + c + count] for r in (-1, 0, 1) for c in (-1, 0, 1)
    ]
    inner = np.where(np.any(near, axis=0), -1, spread)
    chosen = inner if inner.max() > 0 else spread
    return [int(index) * 8 for index in np.unravel_index(int(chosen.argmax()), chosen.shape)]


def _telling(first: FirstLayer) -> tuple[Floats, Floats]:
    """Return how much each first map varies on the image itself, black surroundings left out.

    The second array is the same as a share: near 1 for a filter that answers to changes only.
    """
    side = first.made.shape[-1]
    at = np.minimum(np.arange(side) * first.given.shape[-1] // side, first.given.shape[-1] - 1)
    seen = (first.given - first.given.min(axis=(1, 2), keepdims=True)).max(0)[at][:, at] > 0
    shown = first.made[:, seen] if seen.any() else first.made.reshape(len(first.made), -1)
    spread, mean = shown.std(axis=1), np.abs(shown.mean(axis=1))
    return spread, spread / np.maximum(spread + mean, 1e-12)


def _first(subject: Subject, passing: Passing, seen: Seen) -> dict[str, Any]:
    first, network = passing.first, subject.network
    spread, share = _telling(first)
    room = max(1, KEPT_BYTES // first.made[0].nbytes)
    # weak maps aren't worth the room; of the others, those that answer to changes teach most
    strong = np.where(spread >= np.median(spread), 1 + share, 0)
    kept = np.argsort(-strong, kind="stable")[:room].tolist()
    limits = np.array([pictures.limit_of(made) for made in first.made])
    reach = np.abs(first.weights).max(axis=(1, 2, 3))
    # three equal channels: only the sum of a filter's tables counts
    shown = first.weights.mean(1, keepdims=True) if seen.pixels.shape[2] == 1 else first.weights
    # the image's own values, or something that a layer made of them before the convolution
    mean, sd = (value.reshape(-1).double().numpy() for value in (network.mean, network.spread))
    plain = _plain(seen, network)
    affine = plain.shape == first.given.shape and bool(np.abs(plain - first.given).max() < 1e-4)
    return {
        "kernel": int(first.weights.shape[-1]),
        "stride": first.stride,
        "padding": first.padding,
        "filters": int(first.weights.shape[0]),
        "channels": int(first.weights.shape[1]),
        "side": int(first.made.shape[-1]),
        "weights": pictures.packed(first.weights),
        "bias": None if first.bias is None else [number(value) for value in first.bias],
        "given": None if affine else pictures.packed(first.given),
        "mean": [float(value) for value in mean],
        "spread": [float(value) for value in sd],
        "kept": sorted(kept),
        "best": kept[0],
        "maps": pictures.packed(first.made[sorted(kept)]),
        "reach": [number(value) for value in reach],
        "limits": [number(value) for value in limits],
        "largest": [number(value) for value in np.abs(first.made).max(axis=(1, 2))],
        "filter_pictures": [
            pictures.filter_picture(w, max(float(np.abs(w).max()), float(reach.max()) * DEAD))
            for w in shown
        ],
        "map_pictures": [
            pictures.signed(m, float(v))
            for m, v in zip(first.made, np.maximum(limits, limits.max() * DEAD), strict=True)
        ],
        **_after(first, kept),
    }


def _plain(seen: Seen, network: Any) -> Floats:
    """Return the image [3, S, S] normalised as the network does it."""
    pixels = (
        torch.from_numpy(seen.pixels.copy()).permute(2, 0, 1)[None].float().expand(-1, 3, -1, -1)
    )
    return np.asarray(((pixels - network.mean) / network.spread)[0].numpy(), np.float32)


def _after(first: FirstLayer, kept: list[int]) -> dict[str, Any]:
    """Return what normalisation and activation make of the kept maps."""
    tree: dict[str, Any] = {"norm": first.norm, "activation": first.activation}
    if first.scale is not None and first.shift is not None:
        tree["scale"] = [number(value) for value in first.scale]
        tree["shift"] = [number(value) for value in first.shift]
    for name, maps in (("normed", first.normed), ("activated", first.activated)):
        if maps is not None:
            tree[name] = {str(k): _map_picture(maps[k]) for k in kept}
    if first.activated is not None:
        zeros = (first.activated == 0).mean(axis=(1, 2))
        tree["zeros"] = [number(value) for value in zeros]
    return tree


def _stage(stage: Stage, side: int) -> dict[str, Any]:
    maps = stage.maps.detach()[0].numpy()
    spread = maps.std(axis=(1, 2))
    strongest = np.argsort(-spread, kind="stable")[:CHANNELS_SHOWN]
    return {
        "name": stage.name,
        "channels": len(maps),
        "side": int(maps.shape[-1]),
        "stride": number(side / maps.shape[-1]),
        "zeros": None if stage.zeros is None else number(stage.zeros),
        "normed": None if stage.normed is None else [number(value) for value in stage.normed],
        "maps": [
            {
                "channel": int(k),
                "sd": number(spread[k]),
                "low": number(maps[k].min()),
                "high": number(maps[k].max()),
                "signed": bool(maps[k].min() < 0),
                "png": _map_picture(maps[k]),
            }
            for k in strongest
        ],
    }


def _map_picture(values: Floats) -> str:
    if values.min() < 0:
        return pictures.signed(values, pictures.limit_of(values))
    return pictures.amount(values, 0.0, pictures.limit_of(values))


def _fields(subject: Subject, passing: Passing, progress: Progress) -> dict[str, Any]:
    """Return receptive fields on a grid of units of every stage, and of the evidence map."""
    card = subject.package.card
    values = passing.evidence.detach()[0].numpy()
    column = explained_class(
        next(o for o in card.outputs if o.label == card.primary), passing.whole_logits
    )[1]
    peak = np.unravel_index(int(np.abs(values[column]).argmax()), values[column].shape)
    places = [_grid(stage.maps.shape[-1]) for stage in passing.stages]
    grids = [[(r, c) for r in rows for c in rows] for rows in places]
    grids.append([(int(peak[0]), int(peak[1])), *grids[-1]])
    boxes = _boxes(subject, passing, grids)
    done, total = 0, sum(map(len, grids))
    trees = []
    for number_, units in enumerate(grids):
        last = number_ == len(passing.stages)
        maps = passing.evidence if last else passing.stages[number_].maps
        fields = []
        for place, (row, col) in enumerate(units):
            channel = column if last else int(maps[0, :, row, col].argmax())
            box = boxes[min(number_, len(passing.stages) - 1)]
            fields.append(_unit(passing, maps, (channel, row, col), (box[row], box[col])))
            fields[-1]["peak"] = last and place == 0
            done += 1
            progress(done, total, "receptive fields")
        trees.append(
            {
                "name": "evidence" if last else passing.stages[number_].name,
                "side": int(maps.shape[-1]),
                "units": fields,
            }
        )
    return {"stages": trees, "growth": _growth(passing, boxes)}


def _grid(side: int) -> list[int]:
    count = min(GRID, side)
    return [int((2 * k + 1) * side / (2 * count)) for k in range(count)]


def _boxes(
    subject: Subject, passing: Passing, grids: list[list[tuple[int, int]]]
) -> list[dict[int, tuple[int, int]]]:
    """Return, for each stage, unit row -> first and last pixel row that it can see."""
    wanted: list[list[int]] = [[] for _ in subject.network.backbone]
    for place, stage in enumerate(passing.stages):
        units = grids[place] + (grids[-1] if place == len(passing.stages) - 1 else [])
        wanted[stage.child] = sorted({value for unit in units for value in unit})
    shape = passing.pixels.shape
    found = receptive.reach(subject.network.backbone, wanted, int(shape[-1]), int(shape[1]))
    return [
        dict(zip(wanted[stage.child], found[stage.child], strict=True)) for stage in passing.stages
    ]


def _unit(
    passing: Passing,
    maps: torch.Tensor,
    unit: tuple[int, int, int],
    box: tuple[tuple[int, int], tuple[int, int]],
) -> dict[str, Any]:
    channel, row, col = unit
    value = maps[0, channel, row, col]
    strength = receptive.sensitivity(value, passing.pixels)
    (top, bottom), (left, right) = box
    part = strength[top : bottom + 1, left : right + 1]
    cell = passing.pixels.shape[-1] / maps.shape[-1]
    centre = ((row + 0.5) * cell, (col + 0.5) * cell)
    outside = float(strength.sum(dtype=np.float64) - part.sum(dtype=np.float64))
    return {
        "row": row,
        "column": col,
        "channel": channel,
        "value": number(float(value.detach())),
        "box": [top, left, bottom - top + 1, right - left + 1],
        "inner": receptive.inner_square(strength, centre),
        "centre": [number(value) for value in centre],
        "outside": number(max(0.0, outside) / max(float(strength.sum()), 1e-30)),
        "heat": pictures.heat(part) if part.max(initial=0) > 0 else "",
    }


def _growth(passing: Passing, boxes: list[dict[int, tuple[int, int]]]) -> dict[str, Any]:
    """Return the growth layer by layer, and whether it gives the fields that the graph has."""
    grown = receptive.grow(passing.steps)
    size = int(passing.pixels.shape[-1])
    agrees, ends = True, []
    for number_, found in enumerate(boxes):
        own = [g for g in grown if g.step.stage <= number_]
        last = own[-1] if own else None
        if last is None:
            ends.append(1)
            continue
        jump = last.jump * last.step.stride
        ends.append(last.side)
        for row, (top, bottom) in found.items():
            start = last.start + row * jump
            expected = max(0, start), min(size, start + last.side) - 1
            agrees = agrees and expected == (top, bottom)
    return {
        "agrees": agrees,
        "sides": ends,
        "layers": [
            {
                "stage": g.step.stage,
                "layer": g.step.layer,
                "kernel": g.step.kernel,
                "stride": g.step.stride,
                "jump": g.jump,
                "side": g.side,
            }
            for g in grown
        ],
    }


def _checks(subject: Subject, passing: Passing, found: answer.Answered) -> list[Check]:
    bias = subject.network.bias.detach().numpy()
    own = passing.evidence.detach().numpy()[0].mean((1, 2), dtype=np.float64) + bias
    package = found.evidence.mean((1, 2), dtype=np.float64) + found.bias
    checks = [
        Check("the package's stored answers, by the network put together from its weights", subject.difference, TOLERANCE),
        Check("this image's logits: torch against the package's ONNX graph", _apart(passing.whole_logits, found.logits), TOLERANCE * max(1.0, float(np.abs(found.logits).max()))),
        Check("logit against mean evidence + bias, in torch", _apart(own, passing.logits), TOLERANCE),
        Check("logit against mean evidence + bias, in the package's graph", _apart(package, found.logits), TOLERANCE),
        _by_hand(passing.first),
    ]  # fmt: skip
    first = passing.first
    if first.scale is not None and first.shift is not None and first.normed is not None:
        again = first.made * first.scale[:, None, None] + first.shift[:, None, None]
        allowed = SUM_TOLERANCE * max(1.0, float(np.abs(again).max()))
        checks.append(Check("first normalisation: value × scale + shift", _apart(again, first.normed), allowed))  # fmt: skip
    return checks


def _by_hand(first: FirstLayer) -> Check:
    """Return the first convolution by multiplying and adding, at places over the whole map."""
    kernel, side = first.weights.shape[-1], first.made.shape[-1]
    size = first.given.shape[-1]
    padded = np.pad(first.given.astype(np.float64), ((0, 0), (kernel, kernel), (kernel, kernel)))
    apart = 0.0
    terms = 1.0
    for row in _grid(side):
        for col in _grid(side):
            top, left = (kernel + k * first.stride - first.padding for k in (row, col))
            patch = padded[:, top : top + kernel, left : left + kernel]
            products = first.weights.astype(np.float64) * patch
            made = products.sum((1, 2, 3)) + (0 if first.bias is None else first.bias)
            apart = max(apart, _apart(made, first.made[:, row, col]))
            terms = max(terms, float(np.abs(products).sum((1, 2, 3)).max()))
    what = f"first convolution by multiplying and adding, {len(first.weights)} filters at {len(_grid(side)) ** 2} places of {size} × {size}"
    return Check(what, apart, SUM_TOLERANCE * terms)


def _apart(one: Any, other: Any) -> float:
    return float(np.max(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64))))
