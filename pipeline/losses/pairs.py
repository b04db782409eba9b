"""Which embeddings form a pair, and of which kind.

A batch of n embeddings is compared with m references: the batch itself first, then whatever
else is there (a memory of earlier batches). A pair is two *items*: an embedding with itself, or
with another view of the same item (twice in a batch, or in the batch and in the memory), is
neither a positive nor a negative pair. Its similarity says how well the augmentation is
ignored, not how near two things of one class are, and it would be the easiest positive of all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_UNNAMED = -1
"""Item of a remembered embedding whose item nobody told; equal to no item of a batch."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What each of n embeddings is of."""

    labels: Tensor
    """(n,) int64 class numbers."""
    items: Tensor
    """(n,) int64, equal for views of one item."""

    @classmethod
    def of_batch(cls, labels: Tensor, items: Tensor | None) -> Marks:
        """Of a batch; without ``items`` (0 or more each) every row is an item of its own."""
        if items is None:
            # Below every number that a remembered item can have.
            items = _UNNAMED - 1 - torch.arange(len(labels), device=labels.device)
        return cls(labels, items)

    def remembered_items(self) -> Tensor:
        """(n,) the items as a memory keeps them: told ones, and -1 for the others."""
        return self.items.clamp(min=_UNNAMED)

    def __add__(self, other: Marks) -> Marks:
        """These, then the ``other`` ones."""
        return Marks(
            torch.cat([self.labels, other.labels]), torch.cat([self.items, other.items])
        )

    def same(self, references: Marks) -> tuple[Tensor, Tensor]:
        """(n, m) bool twice: whether the labels agree, and whether it is one and the same item."""
        return (
            self.labels[:, None] == references.labels[None, :],
            self.items[:, None] == references.items[None, :],
        )

    def pairs(self, references: Marks) -> tuple[Tensor, Tensor]:
        """(n, m) bool twice: the positive and the negative pairs."""
        same_label, same_item = self.same(references)
        return same_label & ~same_item, ~(same_label | same_item)
