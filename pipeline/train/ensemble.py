"""One graph from several networks and several views of an image: its answer is their mean."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from pipeline.train.networks import EvidenceNetwork

VIEWS: dict[str, tuple[tuple[int, ...], ...]] = {
    "one": ((),),
    "mirror": ((), (2,)),
    "flips": ((), (2,), (1,), (1, 2)),
}
"""``network.views`` -> the axes of images [N, S, S, C] along which each view is turned over."""


class Ensemble(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """The mean of what ``members`` say about an image and its flips.

    ``kinds`` says how many of them, in their order, are of one kind: each kind's mean counts the same.

    Takes and returns what an :class:`EvidenceNetwork` does. Evidence of a turned view is turned
    back before the mean, so that the logit still is the mean of its evidence map, plus the mean
    bias: the mean of sums is the sum of means. The embedding is the mean over views, the members'
    one after another: axes of different networks have nothing in common.

    Nothing here learns; members are trained one by one, on one view.
    """

    def __init__(
        self, members: Sequence[EvidenceNetwork], views: str = "one", kinds: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.kinds = tuple(kinds) or (len(members),)
        self.members = nn.ModuleList(members)
        self.views = VIEWS[views]

    def forward(self, images_bhwc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [N, K], evidence [N, K, h, w] and embedding [N, D * members]."""
        seen = [torch.flip(images_bhwc, axes) if axes else images_bhwc for axes in self.views]
        logits: list[list[Tensor]] = []
        evidence: list[list[Tensor]] = []
        embeddings = []
        for member in self.members:
            of_views = []
            logits.append([])
            evidence.append([])
            for axes, images in zip(self.views, seen, strict=True):
                logit, grid, embedding = member(images)
                # rows and columns: axes 1 and 2 of images, 2 and 3 of evidence
                turned = [axis + 1 for axis in axes]
                logits[-1].append(logit)
                evidence[-1].append(torch.flip(grid, turned) if turned else grid)
                of_views.append(embedding)
            embeddings.append(_mean(of_views))
        return self._mean_of(logits), self._mean_of(evidence), torch.cat(embeddings, 1)

    def _mean_of(self, of_members: list[list[Tensor]]) -> Tensor:
        parts, first = [], 0
        for count in self.kinds:
            of_kind = of_members[first : first + count]
            parts.append(_mean([one for views in of_kind for one in views]))
            first += count
        return _mean(parts)

    def stride(self, size: int) -> int:
        """Return pixels of stored images of ``size`` per cell of the evidence map, at least 1."""
        first = self.members[0]
        assert isinstance(first, EvidenceNetwork)  # noqa: S101 - for the type checker
        return first.stride(size)


AnyNetwork: TypeAlias = EvidenceNetwork | Ensemble
"""What is calibrated, exported and measured."""


def answering(
    members: Sequence[EvidenceNetwork], views: str, kinds: Sequence[int] = ()
) -> AnyNetwork:
    """Return the network that answers: a lone member on one view is itself."""
    if len(members) == 1 and views == "one":
        return members[0]
    together = Ensemble(members, views, kinds)
    together.eval()
    return together


def _mean(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total / len(parts) if len(parts) > 1 else total
