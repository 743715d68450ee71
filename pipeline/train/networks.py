"""The network of a plan: a backbone, and a head whose evidence map averages to the logit."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from data_schemas.errors import TrainingError
from data_schemas.plan import NetworkPlan
from pipeline.train.backbones import BACKBONES, Pixels

__all__ = ["BACKBONES", "EvidenceNetwork", "build", "set_prior"]


class EvidenceNetwork(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Backbone, 1x1 convolution, average: the logit is the mean of its evidence map, plus a bias.

    Takes uint8 images [N, S, S, C] as they lie in a data set, enlarges them to ``size`` px (0: as
    they are) and normalises inside, and returns ``logits`` [N, K], ``evidence`` [N, K, h, w] and
    ``embedding`` [N, D], all float32. Averaging commutes with the 1x1 convolution, so this is an
    ordinary linear head on pooled features (class activation mapping, Zhou et al. 2016), with
    nothing left out of the picture.
    """

    def __init__(
        self, backbone: nn.Sequential, head: nn.Conv2d, pixels: Pixels, size: int = 0
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.drop = nn.Dropout2d(0.0)
        self.head = head
        self.size = size
        self.bias = nn.Parameter(torch.zeros(head.out_channels))
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.tensor(pixels[0]).reshape(1, 3, 1, 1))
        self.register_buffer("spread", torch.tensor(pixels[1]).reshape(1, 3, 1, 1))

    def features(self, images_bhwc: Tensor) -> Tensor:
        """Return feature maps [N, D, h, w] of images [N, S, S, 1 or 3] on the 0..255 scale."""
        pixels = images_bhwc.permute(0, 3, 1, 2).to(self.mean.dtype)
        if self.size:
            # by cubic convolution (Keys 1981, a = -0.75), as ONNX's Resize does it, too
            pixels = functional.interpolate(pixels, (self.size, self.size), mode="bicubic")
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        maps: Tensor = self.backbone((pixels - self.mean) / self.spread)
        return maps

    def judge(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [N, K], evidence [N, K, h, w] and embedding [N, D] of feature maps."""
        evidence = self.head(self.drop(maps))
        return evidence.mean((2, 3)) + self.bias, evidence, maps.mean((2, 3))

    def forward(self, images_bhwc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [N, K], evidence [N, K, h, w] and embedding [N, D] of images.

        Under autocast the backbone computes in what it says; the head, in float32.
        """
        maps = self.features(images_bhwc)
        if not torch.is_autocast_enabled(maps.device.type):
            return self.judge(maps)
        with torch.autocast(maps.device.type, enabled=False):
            return self.judge(maps.float())

    def cells(self, size: int) -> int:
        """Return the side of the evidence map of stored images of ``size``, in cells."""
        return _cells(self.backbone, self.size or size)[1]

    def stride(self, size: int) -> int:
        """Return pixels of stored images of ``size`` per cell of the evidence map, at least 1."""
        return max(1, round(size / self.cells(size)))


def build(plan: NetworkPlan, outputs: int, size: int) -> EvidenceNetwork:
    """Return the planned network with ``outputs`` logits for stored images of ``size`` pixels.

    ``plan.stride`` is the coarsest evidence map allowed, in pixels of what the backbone sees
    (``plan.size``): stages of the backbone that would go beyond it are left out (a finer map sees
    smaller things, with less context and less depth). Weights start at random from torch's
    generator; see :mod:`pipeline.train.weights` for others.

    Raises
    ------
    TrainingError
        If there is no such backbone, or its package is not installed, no stage is that fine, or
        images would have to shrink.
    """
    entry = BACKBONES.get(plan.backbone)
    if entry is None:
        raise TrainingError(
            f"no backbone is called `{plan.backbone}`",
            where="network.backbone",
            mend=f"choose one of: {', '.join(BACKBONES)}",
        )
    try:
        stages = entry.build()
    except ImportError as error:
        raise TrainingError(
            f"`{plan.backbone}` needs the package `{error.name}`, which is not installed",
            where="network.backbone",
            mend="pip install 'hilum[train,weights]'",
        ) from error
    enlarged = _enlarged(plan.size, size)
    stages = _no_coarser_than(stages, plan.stride, enlarged or size)
    head = nn.Conv2d(_cells(stages, enlarged or size)[0], outputs, 1, bias=False)
    # small enough to start from the labels' frequencies, not zero: the backbone learns at once
    nn.init.normal_(head.weight, std=0.01)
    network = EvidenceNetwork(stages, head, (entry.mean, entry.spread), enlarged)
    network.drop.p = plan.dropout
    return network


def set_prior(network: EvidenceNetwork, bias: Tensor) -> None:
    """Start the head's bias at the labels' log-odds [K], so that learning begins with images."""
    with torch.no_grad():
        network.bias.copy_(bias)


def _enlarged(wanted: int, stored: int) -> int:
    """Return the side to which the graph enlarges stored images; 0: it leaves them alone."""
    if 0 < wanted < stored:
        raise TrainingError(
            f"the images are stored at {stored} px; the graph enlarges, it doesn't shrink to {wanted}",
            where="network.size",
            mend=f"use 0 (as stored) or more than {stored}, or ingest with a smaller contract",
        )
    return 0 if wanted == stored else wanted


def _no_coarser_than(stages: nn.Sequential, stride: int, size: int) -> nn.Sequential:
    kept = nn.Sequential()
    for name, stage in stages.named_children():
        longer = nn.Sequential(*kept, stage)
        # sizes that the stride doesn't divide round up or down, depending on the padding
        if _cells(longer, size)[1] < size // stride:
            break
        kept.add_module(name, stage)
    if not len(kept):
        raise TrainingError(f"no stage of the backbone has a stride of {stride} px or less")
    return kept


def _cells(stages: nn.Sequential, size: int) -> tuple[int, int]:
    """Return channels and side of the maps that ``stages`` make of images of ``size``."""
    training = stages.training
    stages.eval()
    with torch.no_grad():
        maps = stages(torch.zeros(1, 3, size, size))
    stages.train(training)
    return int(maps.shape[1]), int(maps.shape[-1])
