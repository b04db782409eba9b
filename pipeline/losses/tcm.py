"""The threshold-consistent margin loss: one margin for all positives, one for all negatives.

    L_TCM = lam+ * sum_{s in S+} relu(m+ - s) / |{s in S+ : s <= m+}|
          + lam- * sum_{s in S-} relu(s - m-) / |{s in S- : s >= m-}|

S+ and S- are the cosine similarities of a batch's positive and negative pairs. Only *hard* pairs
count, those at or past their margin, so classes that are already consistent do not dilute the
mean. A base loss ranks; this term, added to it, pulls every class to the same distances, which
is what one threshold for all needs.

Zhang et al., "Threshold-Consistent Margin Loss for Open-World Deep Metric Learning", ICLR 2024,
arXiv:2307.04047; docs/methods.md section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    wide = similarity.to(torch.promote_types(similarity.dtype, torch.float32))
    counted = torch.ones_like(is_positive) if is_pair is None else is_pair
    below = (positive_margin - wide)[is_positive & counted]
    above = (wide - negative_margin)[~is_positive & counted]
    return positive_weight * _mean_over_hard(below, floor) + negative_weight * _mean_over_hard(
        above, floor
    )


def _mean_over_hard(violation: Tensor, floor: int) -> Tensor:
    """Mean of ``violation`` (k,) over the pairs at or past their margin; 0 if there is none."""
    return torch.relu(violation).sum() / (violation >= 0).sum().clamp(min=floor)
