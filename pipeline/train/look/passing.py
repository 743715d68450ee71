"""Sends one image through a network and keeps what the page shows: first layer, stages, evidence."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_schemas.errors import TrainingError
from pipeline.train.look.subject import Subject

Floats: TypeAlias = NDArray[np.float32]

NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.LeakyReLU)
CUTTING = (nn.ReLU, nn.ReLU6)
"""Activations that make exact zeros."""
STEPS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
MOST_STAGES = 6


@dataclass(frozen=True, slots=True)
class Step:
    """One layer that looks at more than one place, or leaves places out."""

    stage: int
    layer: str
    kernel: int
    stride: int
    padding: int  # rows of zeros above


@dataclass(frozen=True, slots=True)
class FirstLayer:
    """The first convolution with its tensors for this image."""

    weights: Floats  # [F, C, k, k]
    bias: Floats | None  # [F]
    stride: int
    padding: int  # rows of zeros above, and columns to the left
    given: Floats  # [C, S, S]: what it gets
    made: Floats  # [F, h, w]: what it makes
    norm: str  # class of the normalisation that follows, or ""
    scale: Floats | None  # [F]: a batch normalisation is made * scale + shift
    shift: Floats | None
    normed: Floats | None  # [F, h, w]
    activation: str  # class of the activation that follows, or ""
    activated: Floats | None  # [F, h, w]


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage of the backbone makes."""

    name: str
    child: int  # its place in the backbone
    maps: Tensor  # [1, D, h, w], with its graph
    zeros: float | None  # share of exact zeros that the stage's ReLUs put out; None: it has none
    normed: tuple[float, float, float, float] | None  # mean, s.d. before and after its last norm


@dataclass(frozen=True, slots=True)
class Passing:
    """One image's way through the network."""

    pixels: Tensor  # [1, C, S, S]: what the backbone gets, a leaf that takes gradients
    first: FirstLayer
    stages: tuple[Stage, ...]
    steps: tuple[Step, ...]
    gates: bool  # whether a global average somewhere inside weighs the channels
    evidence: Tensor  # [1, K, h, w], with its graph
    logits: Floats  # [K] of the member that is looked at
    whole_logits: Floats  # [K] of the whole network
    embedding: Floats  # [D]


@dataclass(slots=True)
class _Call:
    name: str
    module: nn.Module
    given: Tensor
    made: Tensor


def send(subject: Subject, image: NDArray[np.uint8]) -> Passing:
    """Send a prepared image [S, S, C] through the network.

    Raises
    ------
    TrainingError
        If the network has no convolution that can be shown.
    """
    network = subject.network
    pixels, whole = _backbones_input(subject, image)
    names = {module: name for name, module in network.backbone.named_modules()}
    children = [module for _, module in network.backbone.named_children()]
    ends: list[int] = []
    calls: list[_Call] = []
    outputs: list[Tensor] = []

    def note(module: nn.Module, _given: tuple[Any, ...], made: Any) -> Any:
        if module in children:
            outputs.append(made)
            ends.append(len(calls))
            return made.clone()  # the next stage may write into it
        return None

    with _heard(network.backbone, names, calls), _hooked(children, note):
        maps = network.backbone(pixels)
    logits, evidence, embedding = network.judge(maps)
    stages = [
        _stage(name, child, outputs[child], calls[start:end])
        for child, ((name, _), start, end) in enumerate(
            zip(network.backbone.named_children(), [0, *ends[:-1]], ends, strict=True)
        )
    ]
    kept = _kept([int(stage.maps.shape[-1]) for stage in stages])
    return Passing(
        pixels=pixels,
        first=_first(calls),
        stages=tuple(stages[k] for k in kept),
        steps=tuple(_steps(calls, ends, kept)),
        gates=any(isinstance(part, nn.AdaptiveAvgPool2d) for part in network.backbone.modules()),
        evidence=evidence,
        logits=_array(logits[0]),
        whole_logits=whole,
        embedding=_array(embedding[0]),
    )


def _backbones_input(subject: Subject, image: NDArray[np.uint8]) -> tuple[Tensor, Floats]:
    """Return what the first member's backbone gets at its first call, and the whole's logits."""
    caught: list[Tensor] = []

    def catch(_module: nn.Module, given: tuple[Any, ...]) -> None:
        caught.append(given[0].detach()[:1].clone())

    hook = subject.network.backbone.register_forward_pre_hook(catch)
    try:
        with torch.no_grad():
            logits = subject.whole(torch.from_numpy(image[None].copy()))[0]
    finally:
        hook.remove()
    return caught[0].contiguous().requires_grad_(), _array(logits[0])


@contextmanager
def _heard(backbone: nn.Module, names: dict[nn.Module, str], calls: list[_Call]) -> Iterator[None]:
    """Write down every layer's call; tensors are copied, since an activation may work in place."""
    wanted = (*NORMS, *ACTIVATIONS, *STEPS)
    modules = [module for module in backbone.modules() if isinstance(module, wanted)]
    given: dict[nn.Module, Tensor] = {}

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        given[module] = args[0].detach().clone()

    def after(module: nn.Module, _args: tuple[Any, ...], made: Any) -> None:
        calls.append(_Call(names[module], module, given.pop(module), made.detach().clone()))

    hooks = [module.register_forward_pre_hook(before) for module in modules]
    hooks += [module.register_forward_hook(after) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _hooked(modules: list[nn.Module], note: Any) -> Iterator[None]:
    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _first(calls: list[_Call]) -> FirstLayer:
    places = [k for k, call in enumerate(calls) if isinstance(call.module, nn.Conv2d)]
    if not places:
        raise TrainingError("the network has no convolution to look at")
    conv = calls[places[0]]
    layer: Any = conv.module
    if (
        layer.groups != 1
        or layer.dilation != (1, 1)
        or layer.kernel_size[0] != layer.kernel_size[1]
    ):
        raise TrainingError("the first convolution has groups, a dilation or an oblong kernel")
    following = calls[places[0] + 1 : places[1] if len(places) > 1 else None]
    # a norm that holds its activation is left after it: look for each on its own
    norm = next((call for call in following if isinstance(call.module, NORMS)), None)
    act = next((call for call in following if isinstance(call.module, ACTIVATIONS)), None)
    normed = None if norm is None else (act.given if act is not None else norm.made)
    scale, shift = _affine(norm.module if norm else None)
    return FirstLayer(
        weights=_array(layer.weight),
        bias=None if layer.bias is None else _array(layer.bias),
        stride=int(layer.stride[0]),
        padding=_padding(conv),
        given=_array(conv.given[0]),
        made=_array(conv.made[0]),
        norm="" if norm is None else type(norm.module).__name__,
        scale=scale,
        shift=shift,
        normed=None if normed is None else _array(normed[0]),
        activation="" if act is None else type(act.module).__name__,
        activated=None if act is None else _array(act.made[0]),
    )


def _affine(norm: Any) -> tuple[Floats | None, Floats | None]:
    """Return a batch normalisation, as it works after training, as one factor and one summand."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_var is None:
        return None, None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return _array(scale), _array(shift)


def _padding(call: _Call) -> int:
    """Return rows of zeros above; a layer may pad as much as its output needs (`SAME`)."""
    layer: Any = call.module
    kernel, stride, padding = (_one(layer, name) for name in ("kernel_size", "stride", "padding"))
    before, after = int(call.given.shape[-2]), int(call.made.shape[-2])
    missing = (after - 1) * stride + kernel - before
    if isinstance(layer, nn.Conv2d) and padding == 0 and missing > 0:
        return missing // 2
    return padding


def _one(layer: Any, name: str) -> int:
    value = getattr(layer, name)
    return int(value[0] if isinstance(value, tuple) else value)


def _steps(calls: list[_Call], ends: list[int], kept: list[int]) -> Iterator[Step]:
    """Yield the layers that widen the view, with the number of the kept stage they belong to."""
    side = int(calls[0].given.shape[-1])
    for place, call in enumerate(calls):
        if not isinstance(call.module, STEPS):
            continue
        kernel, stride = _one(call.module, "kernel_size"), _one(call.module, "stride")
        # what starts again from a larger map is a short cut beside a block, not on the way
        if (kernel, stride) == (1, 1) or int(call.given.shape[-1]) != side:
            continue
        side = int(call.made.shape[-1])
        whole = next((k for k, end in enumerate(ends) if place < end), len(ends) - 1)
        stage = next(number for number, k in enumerate(kept) if whole <= k)
        yield Step(stage, call.name, kernel, stride, _padding(call))


def _stage(name: str, child: int, maps: Tensor, calls: list[_Call]) -> Stage:
    cut = [call for call in calls if isinstance(call.module, CUTTING)]
    count = sum(call.made.numel() for call in cut)
    zeros = sum(int((call.made == 0).sum()) for call in cut)
    norms = [call for call in calls if type(call.module) is nn.BatchNorm2d]
    normed = None
    if norms:
        before, after = norms[-1].given, norms[-1].made
        normed = tuple(float(f(t)) for t in (before, after) for f in (torch.mean, torch.std))
    return Stage(
        name,
        child,
        maps,
        zeros / count if count else None,
        normed,  # type: ignore[arg-type]
    )


def _kept(sides: list[int]) -> list[int]:
    """Return which stages are shown: all, or of many the last of each size."""
    if len(sides) <= MOST_STAGES:
        return list(range(len(sides)))
    return [k for k, side in enumerate(sides) if k + 1 == len(sides) or sides[k + 1] != side]


def _array(values: Tensor) -> Floats:
    return np.ascontiguousarray(values.detach().float().numpy())
