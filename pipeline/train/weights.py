"""Starting weights: published ones of ImageNet, or a .safetensors file. Never an unchecked pickle."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from data_schemas.errors import TrainingError
from data_schemas.files import sha256_of_file
from data_schemas.plan import NetworkPlan
from pipeline.train import published
from pipeline.train.backbones import BACKBONES
from pipeline.train.networks import EvidenceNetwork

IMAGENET, DOWNLOAD = "imagenet", "imagenet:download"


def load(network: EvidenceNetwork, plan: NetworkPlan) -> str:
    """Put the planned starting weights into ``network`` and return their licence or source.

    Raises
    ------
    TrainingError
        If the weights don't exist here, aren't what they should be, or don't fit the network.
    """
    if plan.weights == "none":
        return ""
    if plan.weights in (IMAGENET, DOWNLOAD):
        return _imagenet(network, plan)
    if plan.weights.endswith(".pth"):
        tensors, source = published.of_file(plan.backbone, Path(plan.weights))
        _copy_in_order(network.backbone, list(tensors.values()))
        return source
    return _from_file(network, Path(plan.weights))


def _imagenet(network: EvidenceNetwork, plan: NetworkPlan) -> str:
    name = plan.backbone
    if name in published.WHEELS:
        tensors, source = published.of_wheel(name)
    elif BACKBONES[name].published:
        tensors, source = published.of_hub(name, download=plan.weights == DOWNLOAD)
    else:
        known = [one for one in BACKBONES if one in published.WHEELS or BACKBONES[one].published]
        raise TrainingError(
            f"no ImageNet weights for `{name}` are published where we could check them",
            where=published.WHERE,
            mend=f"use one of {', '.join(known)}, or `none`, or a .safetensors file of the backbone",
        )
    _copy_in_order(network.backbone, list(tensors.values()))
    return source


def _copy_in_order(backbone: nn.Sequential, tensors: list[Tensor]) -> None:
    # The file names its tensors after another implementation of the same network; the order of
    # the layers is the same. What follows the backbone (the ImageNet classifier) is left over, and
    # so are the last stages if the plan asked for a finer stride.
    own = list(backbone.state_dict().values())
    if len(tensors) < len(own):
        raise TrainingError("the weights file has fewer tensors than the network")
    with torch.no_grad():
        for place, (target, source) in enumerate(zip(own, tensors, strict=False)):
            if target.shape != source.shape:
                raise TrainingError(
                    f"tensor {place} is {tuple(source.shape)} in the file, "
                    f"{tuple(target.shape)} in the network"
                )
            target.copy_(source)


def _from_file(network: EvidenceNetwork, file: Path) -> str:
    if file.suffix != ".safetensors":
        raise TrainingError(
            f"`{file.name}` is not a .safetensors file",
            where="network.weights",
            mend="give `none`, `imagenet`, a .safetensors file, or a .pth file of torchvision's",
        )
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise TrainingError("the weights can't be read", where=file) from error
    # a package of ours holds one or several whole networks; only a backbone fits other labels
    places = ("backbone.", "members.0.backbone.")
    place = next((own for own in places if any(name.startswith(own) for name in tensors)), "")
    state = {
        name.removeprefix(place): tensor
        for name, tensor in tensors.items()
        if name.startswith(place)
    }
    try:
        network.backbone.load_state_dict(state)
    except RuntimeError as error:
        raise TrainingError(
            "the weights are of another network",
            where=file,
            mend="name the backbone they were trained with, at the same stride",
        ) from error
    return f"weights file {sha256_of_file(file)[:16]}"
