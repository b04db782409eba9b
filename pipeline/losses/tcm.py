"""The threshold-consistent margin loss: one margin for all positives, one for all negatives.

    L_TCM = lam+ * sum_{s in S+} relu(m+ - s) / |{s in S+ : s <= m+}|
          + lam- * sum_{s in S-} relu(s - m-) / |{s in S- : s >= m-}|

S+ and S- are the cosine similarities of a batch's positive and negative pairs. Only *hard* pairs
count, those at or past their margin, so classes that are already consistent do not dilute the
mean. A base loss ranks; this term, added to it, pulls every class to the same distances, which
is what one threshold for all needs.

Above the similarities and their gradient it needs less than two float32 matrices of their size:
forward keeps one bit a pair, whether it pulls, and backward writes the only two values that the
gradient can have where one does.

Zhang et al., "Threshold-Consistent Margin Loss for Open-World Deep Metric Learning", ICLR 2024,
arXiv:2307.04047; docs/methods.md section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.losses.pairs import Marks


def tcm_loss(
    similarity: Tensor,
    is_positive: Tensor,
    *,
    positive_margin: float,
    negative_margin: float,
    positive_weight: float = 1.0,
    negative_weight: float = 1.0,
    floor: int = 1,
    is_pair: Tensor | None = None,
) -> Tensor:
    """The loss of a matrix of pairs; a scalar, 0 with a graph where no pair is hard.

    ``similarity`` (n, m) cosine similarities of n embeddings to m references, which are the same
    embeddings or any other set; ``is_positive`` (n, m) whether the labels agree; ``is_pair``
    (n, m) False where an entry is no pair (an embedding with itself), absent if all are. A
    pair that stands twice in a symmetric matrix counts twice above and below the line, so the
    loss is that of unordered pairs. ``floor`` is the least denominator of either mean. Half
    precision is added up in float32 (2,049 pairs are not countable in float16); the result has
    the precision of the sum.
    """

    def others(positive: bool) -> Tensor:
        kind = is_positive if positive else ~is_positive
        return ~kind if is_pair is None else ~(kind & is_pair)

    sides = (positive_margin, positive_weight), (negative_margin, negative_weight)
    return _tcm(similarity, others, sides, floor)


def tcm_of_marks(
    similarity: Tensor,
    marks: Marks,
    references: Marks,
    *,
    positive_margin: float,
    negative_margin: float,
    positive_weight: float = 1.0,
    negative_weight: float = 1.0,
    floor: int = 1,
) -> Tensor:
    """``tcm_loss`` of n embeddings and m references by what they are of.

    An item with itself is no pair. In a batch compared with itself every pair stands twice; one
    of the batch with a memory stands once, and counts half as much.
    """

    def others(positive: bool) -> Tensor:
        same_label, same_item = marks.same(references)
        return (same_label.logical_not_() if positive else same_label).logical_or_(same_item)

    sides = (positive_margin, positive_weight), (negative_margin, negative_weight)
    return _tcm(similarity, others, sides, floor)


class _Context(Protocol):
    """What forward leaves for backward; torch brings the object."""

    dtype: torch.dtype
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Tcm(torch.autograd.Function):
    """Forward finds which pairs pull and how much; backward need not see the similarities."""

    @staticmethod
    def forward(
        ctx: _Context,
        similarity: Tensor,
        others: Callable[[bool], Tensor],
        sides: tuple[tuple[float, float], tuple[float, float]],
        floor: int,
    ) -> Tensor:
        """``others(positive)`` makes (n, m) bool, True where an entry is no pair of that kind."""
        (positive_margin, positive_weight), (negative_margin, negative_weight) = sides
        short, short_count, up = _violation(similarity, others(True), positive_margin, -1)
        excess, excess_count, down = _violation(similarity, others(False), negative_margin, 1)
        pull = positive_weight / short_count.clamp(min=floor).to(short.dtype)
        push = negative_weight / excess_count.clamp(min=floor).to(short.dtype)
        ctx.save_for_backward(up, down, pull, push)
        ctx.dtype = similarity.dtype
        return pull * short + push * excess

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, outer: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient: -pull, push or 0 for each pair."""
        up, down, pull, push = ctx.saved_tensors
        gradient = torch.zeros_like(up, dtype=ctx.dtype)
        gradient.masked_fill_(up, (-outer * pull).to(ctx.dtype))
        gradient.masked_fill_(down, (outer * push).to(ctx.dtype))
        return gradient, None, None, None


_tcm: Callable[..., Tensor] = _Tcm.apply


def _violation(
    similarity: Tensor, others: Tensor, margin: float, sign: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the violations, number of pairs at or past ``margin``, (n, m) bool: those past it."""
    wide = torch.promote_types(similarity.dtype, torch.float32)
    violation = similarity.to(wide, copy=True).sub_(margin).mul_(sign).masked_fill_(others, -1.0)
    count = torch.count_nonzero(violation >= 0)  # a sum would make a matrix of int64
    return violation.relu_().sum(), count, violation > 0
