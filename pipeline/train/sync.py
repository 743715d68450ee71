"""Batch normalisation over a batch that several processes share: as if one process held all of it.

torch's own ``SyncBatchNorm`` needs a GPU. This one goes wherever :class:`World` goes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.train.world import World


def share_statistics(network: nn.Module, world: World) -> None:
    """Let every batch normalisation in ``network`` see the whole batch; alone, change nothing.

    The weights stay the same objects under the same names.
    """
    if world.size == 1:
        return
    for name, child in list(network.named_children()):
        if isinstance(child, _BatchNorm):
            setattr(network, name, SharedBatchNorm(child, world))
        else:
            share_statistics(child, world)


class SharedBatchNorm(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Batch normalisation (Ioffe & Szegedy 2015) by the mean and variance over all processes."""

    def __init__(self, own: _BatchNorm, world: World) -> None:
        super().__init__()
        self.weight, self.bias = own.weight, own.bias
        self.running_mean: Tensor
        self.running_var: Tensor
        self.num_batches_tracked: Tensor
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(own, name))
        self.eps, self.momentum, self.world = own.eps, own.momentum, world
        # timm's layer holds the activation that follows; neither of the two has weights
        after = [getattr(own, name) for name in ("drop", "act") if hasattr(own, name)]
        self.after = nn.Sequential(*after)
        self.train(own.training)

    def forward(self, maps: Tensor) -> Tensor:
        """Return normalised maps [N, C, ...]; N may differ between processes."""
        if not self.training:
            normed = functional.batch_norm(
                maps, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        else:
            normed, mean, variance, count = _Shared.apply(
                maps, self.weight, self.bias, self.eps, self.world
            )
            with torch.no_grad():
                self.num_batches_tracked += 1
                momentum = self.momentum or 1 / int(self.num_batches_tracked)
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * (count / (count - 1)), momentum)
        found: Tensor = self.after(normed)
        return found


class _Shared(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed by mypy
    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, eps: float, world: World
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        over = [axis for axis in range(maps.ndim) if axis != 1]
        variance, mean = torch.var_mean(_wide(maps), over, correction=0)
        count = mean.new_full((1,), maps.numel() / maps.shape[1])
        # each process's mean and variance, joined without a difference of large sums (Chan et al. 1983)
        means, variances, counts = world.stacked(torch.cat([mean, variance, count])).split(
            [len(mean), len(mean), 1], dim=1
        )
        total = counts.sum()
        shares = counts / total
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(maps, weight, mean, scale, total)
        ctx.world, ctx.over = world, over
        normed = functional.batch_norm(maps, mean, variance, weight, bias, eps=eps)
        ctx.mark_non_differentiable(mean, variance, total)
        return normed, mean, variance, total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, mean, scale, total = ctx.saved_tensors
        shape = [1, -1] + [1] * (maps.ndim - 2)
        slope = _wide(upstream[0])
        centred = (_wide(maps) - mean.view(shape)) * scale.view(shape)
        to_bias, to_weight = slope.sum(ctx.over), (slope * centred).sum(ctx.over)
        # the losses of all processes depend on this one's maps, through mean and variance
        all_bias, all_weight = ctx.world.stacked(torch.stack([to_bias, to_weight])).sum(0) / total
        slope = slope - all_bias.view(shape) - centred * all_weight.view(shape)
        to_maps = slope * (scale * weight).view(shape)
        return to_maps.to(maps.dtype), to_weight, to_bias, None, None


def _wide(tensor: Tensor) -> Tensor:
    """Return a tensor of single precision at least: sums of bf16 lose what they add."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
