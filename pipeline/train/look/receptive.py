"""Receptive fields: which pixels can reach a unit, and which of them do for this image.

What *can*: the network's own graph is followed backwards with every weight positive and every
non-linearity left out, so that no path cancels another; the pixels with a gradient are those that
a path leads from. Layer by layer the same follows from kernel, stride and padding (Araujo, Norris
and Sim, 2019), which is what a person can check: r grows by (k - 1) j, and j is multiplied by s.

What *does*: |gradient| of the unit with respect to the pixels, weights and image as they are
(Luo, Li, Urtasun and Zemel, 2016).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.train.look.passing import ACTIVATIONS, NORMS, Floats, Step

STRIP = 64
"""px: a strip of the picture this wide is enough to follow rows."""

INNER = 0.9
"""Share of |gradient| that the drawn square holds."""


@dataclass(frozen=True, slots=True)
class Growth:
    """One layer's part in the receptive field, in px of the network's input."""

    step: Step
    jump: int  # px between neighbouring units before it
    side: int  # of the field after it
    start: int  # first pixel of the field of unit 0 after it; negative: in the padding


def grow(steps: Sequence[Step]) -> list[Growth]:
    """Return how the receptive field grows, layer by layer, along the deepest way."""
    side, jump, start = 1, 1, 0
    grown = []
    for step in steps:
        side += (step.kernel - 1) * jump
        start -= step.padding * jump
        grown.append(Growth(step, jump, side, start))
        jump *= step.stride
    return grown


def reach(
    backbone: nn.Sequential, rows: Sequence[Sequence[int]], size: int, channels: int
) -> list[list[tuple[int, int]]]:
    """Return, for every stage and every unit row of it, the first and last pixel row it can see.

    Parameters
    ----------
    rows
        For each child of ``backbone`` the rows of units to follow; may be empty.
    size, channels
        Of the backbone's input. Kernels are square: what holds for rows holds for columns.
    """
    bare = skeleton(backbone)
    found: list[list[tuple[int, int]]] = []
    for depth, wanted in enumerate(rows):
        if not len(wanted):
            found.append([])
            continue
        strip = torch.zeros(
            len(wanted), channels, size, min(size, STRIP), dtype=torch.float64, requires_grad=True
        )
        made = bare[: depth + 1](strip)
        middle = made.shape[-1] // 2
        total = sum(made[k, :, row, middle].sum() for k, row in enumerate(wanted))
        (gradient,) = torch.autograd.grad(total, strip)
        touched = (gradient != 0).any(dim=3).any(dim=1).numpy()
        found.append([_ends(touched[k]) for k in range(len(wanted))])
    return found


def skeleton(backbone: nn.Sequential) -> nn.Sequential:
    """Return a copy in float64 whose gradient says which pixels a unit is connected with.

    Fed with zeros, a gate that weighs channels by a global average stays shut: its factor is a
    constant, and only the way through the convolutions is followed.
    """
    bare: nn.Sequential = copy.deepcopy(backbone).double().eval()
    for name, module in list(bare.named_modules()):
        if isinstance(module, (*NORMS, *ACTIVATIONS)):
            _replace(bare, name, nn.Identity())
        elif isinstance(module, nn.MaxPool2d):
            _replace(
                bare,
                name,
                nn.AvgPool2d(
                    module.kernel_size,
                    module.stride,
                    module.padding,
                    ceil_mode=module.ceil_mode,
                    count_include_pad=True,
                ),
            )
    with torch.no_grad():
        for parameter in bare.parameters():
            # a mean rather than a sum: nothing overflows, however deep
            parameter.fill_(1 / max(1, parameter[0].numel()) if parameter.ndim > 1 else 1.0)
        for module in bare.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.zero_()
    return bare


def sensitivity(unit: Tensor, pixels: Tensor) -> Floats:
    """Return |gradient| [S, S] of one unit with respect to the backbone's input, summed over channels."""
    # numbers too small to matter are slow to multiply: they are taken as zero
    torch.set_flush_denormal(True)
    try:
        (gradient,) = torch.autograd.grad(unit, pixels, retain_graph=True)
    finally:
        torch.set_flush_denormal(False)
    return np.asarray(gradient[0].abs().sum(0).numpy(), np.float32)


def inner_square(strength: Floats, centre: tuple[float, float]) -> int:
    """Return the side of the smallest square round ``centre`` that holds 90 % of ``strength``.

    ``centre`` is (row, column) in px. 0 where there is nothing.
    """
    total = float(strength.sum(dtype=np.float64))
    if total <= 0:
        return 0
    rows = np.abs(np.arange(strength.shape[0]) + 0.5 - centre[0])
    columns = np.abs(np.arange(strength.shape[1]) + 0.5 - centre[1])
    distance = np.maximum(rows[:, None], columns[None])
    order = np.argsort(distance, axis=None, kind="stable")
    held = np.cumsum(strength.ravel()[order].astype(np.float64))
    edge = order[min(int(np.searchsorted(held, INNER * total)), len(order) - 1)]
    return max(1, int(np.ceil(2 * distance.ravel()[edge])))


def _ends(touched: NDArray[np.bool_]) -> tuple[int, int]:
    places = np.flatnonzero(touched)
    return (int(places[0]), int(places[-1])) if len(places) else (0, -1)


def _replace(root: nn.Module, name: str, by: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(root.get_submodule(parent), own, by)
