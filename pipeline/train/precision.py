"""What of a network computes in which precision and order of memory, where a processor is odd."""

from types import MethodType

import torch
from torch import Tensor, nn


def suit(network: nn.Module, device: torch.device, precision: str) -> None:
    """Lay out ``network`` for ``device``; its answers, weights' names and graph stay what they are.

    Weights lie channels-last everywhere: convolutions need no reordering then, in either
    precision. On a processor, depthwise convolutions stay in float32 under bf16: oneDNN's bf16
    gradient of them is several times slower than the float32 one. There, too, a bounded ReLU writes
    a new map: one that writes over its input must copy it first for the gradient.
    """
    network.to(device, memory_format=torch.channels_last)
    if device.type == "cpu":
        for module in network.modules():
            if isinstance(module, nn.Hardtanh):  # ReLU6 is one
                module.inplace = False
    if device.type == "cpu" and precision == "bf16":
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                # the object's own `forward`: a module around it would rename its weights
                module.forward = MethodType(_in_float32, module)


def _in_float32(self: nn.Conv2d, maps: Tensor) -> Tensor:
    if not torch.is_autocast_enabled("cpu"):
        return type(self).forward(self, maps)
    with torch.autocast("cpu", enabled=False):
        return type(self).forward(self, maps.float())
