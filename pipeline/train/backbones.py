"""Backbones by name: how each is built, stage by stage, and how it wants its pixels.

To add a network, add one line to :data:`BACKBONES`; the tests take it from there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn import functional

from pipeline.train import compat as _compat  # noqa: F401 - must come before torchvision and timm

Triple: TypeAlias = tuple[float, float, float]
Pixels: TypeAlias = tuple[Triple, Triple]


@dataclass(frozen=True)
class Backbone:
    """How to build a backbone, and how it wants its pixels.

    ``build`` returns the stages in order, each a module [N, C, H, W] -> [N, C', H', W'].
    ``mean`` and ``spread`` are of the 0..255 scale: the network sees (x - mean) / spread.
    ``published`` is torchvision's name of the same network, if it publishes weights of it.
    """

    build: Callable[[], nn.Sequential]
    mean: Triple = (123.675, 116.28, 103.53)
    spread: Triple = (58.395, 57.12, 57.375)
    published: str = ""


def _torchvision(stages: Callable[[str], nn.Sequential], name: str) -> Backbone:
    return Backbone(lambda: stages(name), published=name)


def _resnet(name: str) -> nn.Sequential:
    from torchvision import models

    net = models.get_model(name, weights=None)
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return nn.Sequential(stem, net.layer1, net.layer2, net.layer3, net.layer4)


def _resnet18_small() -> nn.Sequential:
    # the form for 32-px pictures (He et al. 2016, section 4.2): no early pooling
    stages = _resnet("resnet18")
    stem = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    return nn.Sequential(stem, *list(stages)[1:])


def _features(name: str) -> nn.Sequential:
    from torchvision import models

    features = models.get_model(name, weights=None).features
    assert isinstance(features, nn.Sequential)  # noqa: S101 - for the type checker
    return features


class ChannelsFirst(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """A part of a network that works on [N, H, W, C], for maps [N, C, H, W]."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [N, C', H', W'] of maps [N, C, H, W]."""
        found: Tensor = self.parts(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return found


def _swin(name: str) -> nn.Sequential:
    from torchvision import models

    net = models.get_model(name, weights=None)
    (embed, _permute, norm), first, *rest = net.features
    stem = nn.Sequential(embed, ChannelsFirst(norm, first))
    # each later stage halves the map, then attends
    later = [ChannelsFirst(*rest[k : k + 2]) for k in range(0, len(rest), 2)]
    later[-1].parts.append(net.norm)
    return nn.Sequential(stem, *later)


def _monai_densenet121() -> nn.Sequential:
    from monai.networks.nets import DenseNet121

    net = DenseNet121(spatial_dims=2, in_channels=3, out_channels=1).features
    stem = nn.Sequential(net.conv0, net.norm0, net.relu0, net.pool0)
    blocks = [
        nn.Sequential(net.transition1, net.denseblock2),
        nn.Sequential(net.transition2, net.denseblock3),
        nn.Sequential(net.transition3, net.denseblock4, net.norm5, nn.ReLU()),
    ]
    return nn.Sequential(stem, net.denseblock1, *blocks)


def _monai_seresnet50() -> nn.Sequential:
    from monai.networks.nets import SEResNet50

    net = SEResNet50(spatial_dims=2, in_channels=3, num_classes=1)
    return nn.Sequential(net.layer0, net.layer1, net.layer2, net.layer3, net.layer4)


def _timm_lite(number: int) -> nn.Sequential:
    import timm

    net = timm.create_model(f"tf_efficientnet_lite{number}", pretrained=False)
    stem = nn.Sequential(net.conv_stem, net.bn1)
    return nn.Sequential(stem, *net.blocks, nn.Sequential(net.conv_head, net.bn2))


def _convnet() -> nn.Sequential:
    def block(before: int, after: int, *, halve: bool) -> nn.Sequential:
        layers: list[nn.Module] = [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
        return nn.Sequential(*layers, nn.MaxPool2d(2)) if halve else nn.Sequential(*layers)

    return nn.Sequential(
        block(3, 32, halve=True),
        block(32, 64, halve=False),
        block(64, 64, halve=True),
        block(64, 128, halve=False),
        block(128, 128, halve=True),
    )


class LocalContrast(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Each pixel less the mean of its surroundings (24 px): small things stay, light and tint go."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Return pixels [N, C, H, W] without their slow part."""
        coarse = functional.avg_pool2d(pixels, 8)
        coarse = functional.avg_pool2d(coarse, 3, stride=1, padding=1, count_include_pad=False)
        slow = functional.interpolate(coarse, size=pixels.shape[2:], mode="bilinear")
        contrast: Tensor = pixels - slow
        return contrast


def _lesion_net() -> nn.Sequential:
    # a cell sees 39 px of the input: wide enough for a lesion, too narrow for the picture's layout
    def block(before: int, after: int, side: int, stride: int = 1) -> nn.Sequential:
        convolution = nn.Conv2d(before, after, side, stride, side // 2, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())

    return nn.Sequential(
        nn.Sequential(LocalContrast(), block(3, 16, 5, stride=2)),
        nn.Sequential(block(16, 32, 3), nn.MaxPool2d(2)),
        nn.Sequential(block(32, 48, 3), nn.MaxPool2d(2)),
        block(48, 64, 3),
    )


_HALF: Pixels = ((127.5,) * 3, (127.5,) * 3)
_LITE: Pixels = ((127.0,) * 3, (128.0,) * 3)

BACKBONES: dict[str, Backbone] = {
    "resnet18": _torchvision(_resnet, "resnet18"),
    "resnet34": _torchvision(_resnet, "resnet34"),
    "resnet50": _torchvision(_resnet, "resnet50"),
    "convnext_tiny": _torchvision(_features, "convnext_tiny"),
    "convnext_small": _torchvision(_features, "convnext_small"),
    "efficientnet_b0": _torchvision(_features, "efficientnet_b0"),
    "swin_t": _torchvision(_swin, "swin_t"),
    "densenet121": Backbone(_monai_densenet121),
    "seresnet50": Backbone(_monai_seresnet50),
    "efficientnet_lite0": Backbone(lambda: _timm_lite(0), *_LITE),
    "efficientnet_lite1": Backbone(lambda: _timm_lite(1), *_LITE),
    "efficientnet_lite2": Backbone(lambda: _timm_lite(2), *_LITE),
    "resnet18_small": Backbone(_resnet18_small, *_HALF),
    "convnet": Backbone(_convnet, *_HALF),
    "lesion_net": Backbone(_lesion_net, spread=(30.0,) * 3),
}
"""Every network that a plan can name. resnet*, convnext*, efficientnet_b0, swin_t: torchvision;
densenet121, seresnet50: MONAI; efficientnet_lite*: timm; resnet18_small and convnet are for small pictures
from scratch; lesion_net for small things in large pictures, from scratch and in little time."""
