"""Losses of logits over pairs: InfoNCE, and USS with the threshold that it learns."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def infonce_loss(
    similarity: Tensor, positive: Tensor, negative: Tensor, *, temperature: float
) -> Tensor:
    """Mean over the positive pairs (i, p) of -log( e_ip / (e_ip + sum_neg e_ij) ); 0 without.

    e = exp(similarity / temperature); ``similarity`` (n, m), ``positive`` and ``negative``
    (n, m) bool. The metric-learning library's NTXent has the same value, but holds a table of
    all positive by all negative pairs, 768 GB for a batch of 4,000 with 4 items a class.
    van den Oord et al. 2018, arXiv:1807.03748; Chen et al., ICML 2020, arXiv:2002.05709.
    """
    logits = similarity / temperature
    against = logits.masked_fill(~negative, -math.inf).logsumexp(1, keepdim=True)
    costs = functional.softplus(against - logits)
    return (costs * positive).sum() / positive.sum().clamp(min=1)


def uss_loss(
    similarity: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    bias: Tensor,
    margin: float,
    scale: float,
) -> Tensor:
    """Mean over the n rows of: mean_pos softplus(b - s (cos+ - m)) + sum_neg softplus(s cos- - b).

    ``similarity`` (n, m), ``positive`` and ``negative`` (n, m) bool; s = ``scale``, m =
    ``margin``, b = ``bias``, whose b / s is the cosine similarity that parts the two kinds. A
    row without pairs of a kind has nothing of that kind. The paper has one positive a row; of
    several the mean is taken. Li et al., "UniTSFace: Unified Threshold Integrated
    Sample-to-Sample Loss for Face Recognition", NeurIPS 2023, arXiv:2311.02523, eq. 24.
    """
    pulls = functional.softplus(bias - scale * (similarity - margin)) * positive
    pushes = functional.softplus(scale * similarity - bias) * negative
    means = pulls.sum(1) / positive.sum(1).clamp(min=1)
    return (means + pushes.sum(1)).mean()


class Uss(nn.Module):
    """``uss_loss`` with its learned bias."""

    def __init__(self, *, classes: int, dimension: int, margin: float, scale: float) -> None:
        """Start where random embeddings put the negatives, at most half way to similarity 1.

        The authors' code takes the log-sum-exp of the first batch's negatives; its expected
        value for random directions, log(classes - 1) + s^2 / (2 d), needs no batch.
        """
        super().__init__()
        self.margin, self.scale = margin, scale
        expected = math.log(max(classes - 1, 1)) + scale**2 / (2 * dimension)
        self.bias = nn.Parameter(torch.tensor(min(expected, scale / 2)))

    def forward(self, similarity: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss, a scalar."""
        return uss_loss(
            similarity, positive, negative, bias=self.bias, margin=self.margin, scale=self.scale
        )

    def threshold(self) -> float:
        """The learned b / s as a cosine distance."""
        return 1.0 - self.bias.item() / self.scale
