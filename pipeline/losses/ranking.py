"""Losses that smooth a measure of retrieval: Smooth-AP and the recall@k surrogate.

Every embedding of the batch is a query, the references are what it searches. The rank of a
positive is 1 + the number of references that are more similar to the query; a sigmoid counts
them instead of a step. The query itself and other views of its item are in no ranking.
"""

from __future__ import annotations

import torch
from torch import Tensor

RECALL_AT = (1, 2, 4, 8, 16)
"""The k of the recall@k surrogate, as published."""


def smooth_ap_loss(
    similarity: Tensor, positive: Tensor, negative: Tensor, *, temperature: float
) -> Tensor:
    """1 - the mean smoothed average precision of the queries with a positive; 0 without any.

    ``similarity`` (n, m); ``positive`` and ``negative`` (n, m) bool, both False for no pair.
    Between 0 and 1; tends to 1 - average precision as ``temperature`` falls to 0. Needs one row
    of m for each positive pair. Brown et al., ECCV 2020, arXiv:2007.12163. The metric-learning
    library's own divides by the number of classes where the items of a class are meant.
    """
    query, above = _above(similarity, positive, negative, temperature)
    positives_above = (above * positive[query]).sum(1)
    precision = (1 + positives_above) / (1 + above.sum(1))
    return _one_minus_mean(_sums(precision[:, None], query, positive) / _sizes(positive), positive)


def recall_at_k_loss(
    similarity: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    temperature: float,
    step_temperature: float,
) -> Tensor:
    """1 - smoothed recall at 1, 2, 4, 8 and 16, their mean over the queries with a positive.

    Arguments as of ``smooth_ap_loss``; ``step_temperature`` smooths the step "rank at most k".
    A query finds at most min(k, positives), and its recall is the share of those, as in the
    authors' code. The step is 1/2 at rank = k, so the loss of perfect ranks is not 0.
    Patel et al., "Recall@k Surrogate Loss with Large Batches and Similarity Mixup", CVPR 2022,
    arXiv:2108.11179.
    """
    query, above = _above(similarity, positive, negative, temperature)
    k = similarity.new_tensor(RECALL_AT)
    within = torch.sigmoid((k - 1 - above.sum(1)[:, None]) / step_temperature)
    found = torch.minimum(_sums(within, query, positive), k)
    recall = found / torch.minimum(_sizes(positive), k)
    return _one_minus_mean(recall, positive)


def _above(
    similarity: Tensor, positive: Tensor, negative: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """(p,) query of each positive pair; (p, m) how much each reference ranks above its positive."""
    query, found = positive.nonzero(as_tuple=True)
    rows = similarity[query]
    above = torch.sigmoid((rows - rows.gather(1, found[:, None])) / temperature)
    counted = (positive | negative)[query]
    counted[torch.arange(len(query), device=query.device), found] = False
    return query, above * counted


def _sums(values: Tensor, query: Tensor, positive: Tensor) -> Tensor:
    """(n, c) sums of ``values`` (p, c) over the positives of each query."""
    return values.new_zeros(len(positive), values.shape[1]).index_add(0, query, values)


def _sizes(positive: Tensor) -> Tensor:
    """(n, 1) positives of each query, 1 where there is none."""
    return positive.sum(1, keepdim=True).clamp(min=1)


def _one_minus_mean(scores: Tensor, positive: Tensor) -> Tensor:
    """1 - the mean of ``scores`` (n, c) over queries with a positive; 0 without such queries."""
    asked = positive.any(1)
    return ((1 - scores).mean(1) * asked).sum() / asked.sum().clamp(min=1)
