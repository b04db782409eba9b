"""Cross-batch memory: the last embeddings of earlier batches, as further references.

Weights move slowly, so embeddings of a few steps ago are nearly those of today: a small batch
sees the negatives of a large one. Wang et al., "Cross-Batch Memory for Embedding Learning",
CVPR 2020, arXiv:1912.06798.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.losses.pairs import Marks


class Memory(nn.Module):
    """A ring of the last ``size`` embeddings with what they are of, all in the state dict."""

    embeddings: Tensor
    labels: Tensor
    items: Tensor
    place: Tensor

    def __init__(self, size: int, dimension: int) -> None:
        """Empty: labels of -1."""
        super().__init__()
        self.size = size
        self.register_buffer("embeddings", torch.zeros(size, dimension))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("items", torch.full((size,), -1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, embeddings: Tensor, marks: Marks) -> None:
        """Put (n, d) unit rows in the place of the oldest; of more than ``size`` the last."""
        kept = slice(max(0, len(embeddings) - self.size), None)
        rows = torch.arange(len(embeddings), device=self.labels.device)[kept]
        rows = (self.place + rows) % self.size
        self.embeddings[rows] = embeddings.detach()[kept].to(self.embeddings.dtype)
        self.labels[rows] = marks.labels[kept]
        self.items[rows] = marks.remembered_items()[kept]
        self.place.add_(len(embeddings)).remainder_(self.size)

    def content(self) -> tuple[Tensor, Marks]:
        """(k, d) embeddings and what they are of, views of the ring; k grows up to ``size``."""
        filled = int((self.labels >= 0).sum())
        return self.embeddings[:filled], Marks(self.labels[:filled], self.items[:filled])
