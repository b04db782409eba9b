"""ArcFace, with a trained proxy for each class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

# 1 - cos^2 below which the sine has no gradient: at 0 it would be infinite.
_LEAST_SQUARED_SINE = 1e-7


def arcface_loss(cosines: Tensor, labels: Tensor, *, margin: float, scale: float) -> Tensor:
    """Mean cross-entropy of scaled cosines, the own class's taken ``margin`` degrees further off.

    ``cosines`` (n, c) of n embeddings to c proxies, ``labels`` (n,) int64 in [0, c). Where angle
    and margin pass 180 degrees the logit goes on falling, as cos - m sin m. The metric-learning
    library's own has the same value, but a gradient of NaN where an embedding lies on its proxy,
    as it comes to do in few dimensions. Deng et al., CVPR 2019, arXiv:1801.07698.
    """
    angle = math.radians(margin)
    own = cosines.gather(1, labels[:, None])
    sine = (1 - own**2).clamp(min=_LEAST_SQUARED_SINE).sqrt()
    further = torch.where(
        own >= -math.cos(angle),
        own * math.cos(angle) - sine * math.sin(angle),
        own - angle * math.sin(angle),
    )
    return functional.cross_entropy(scale * cosines.scatter(1, labels[:, None], further), labels)


class ArcFace(nn.Module):
    """``arcface_loss`` with its proxies, which start in random directions."""

    def __init__(self, *, classes: int, dimension: int, margin: float, scale: float) -> None:
        """Draw the proxies (classes, dimension) from torch's global generator."""
        super().__init__()
        self.margin, self.scale = margin, scale
        self.proxies = nn.Parameter(torch.randn(classes, dimension))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of (n, d) unit rows, a scalar."""
        cosines = embeddings @ functional.normalize(self.proxies, dim=1).T
        return arcface_loss(cosines, labels, margin=self.margin, scale=self.scale)
