"""Densities of the distances of positive and negative pairs, from counts on the fine grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.counting.operating import NEGATIVE, POSITIVE, Curve

_BINS = 120
_TAIL = 1e-3  # share of either kind that may lie beyond the last bin


@dataclass(frozen=True, slots=True)
class Histogram:
    """B bins; bin k holds ``edges[k] < d <= edges[k + 1]``, the first one 0 as well."""

    edges: Curve
    """(B + 1,) cosine distances from 0 to where at most 0.1 % of either kind lies beyond."""
    negative: Curve
    """(B,) density per unit of cosine distance; its integral over all distances is 1. NaN without
    such pairs."""
    positive: Curve
    """(B,) the same of positive pairs."""


def histogram(edges: NDArray[np.float32], pairs: NDArray[np.float64]) -> Histogram:
    """Densities of ``pairs`` (2, T + 1), counted between ``edges`` (T,) from 0 to 2.

    The bins are about equally wide and begin and end at edges, so that every pair is where it
    belongs.
    """
    totals = pairs.sum(axis=1, keepdims=True)
    beyond = (totals - pairs[:, :-1].cumsum(axis=1) > _TAIL * totals).any(axis=0)
    top = float(edges[min(int(beyond.sum()), edges.size - 1)])
    wanted = np.linspace(0.0, min(2.0, np.ceil(top * 10 + 0.5) / 10), _BINS + 1)
    chosen = np.minimum(np.searchsorted(edges, wanted.astype(np.float32)), edges.size - 1)
    chosen = np.unique(np.append(chosen[1:], 0))
    ends = edges[chosen].astype(np.float64)
    cumulated = pairs.cumsum(axis=1)[:, chosen]
    cumulated[:, 0] = 0.0  # whoever lies on 0 belongs to the first bin
    with np.errstate(invalid="ignore", divide="ignore"):
        density = np.diff(cumulated, axis=1) / totals / np.diff(ends)
    return Histogram(ends, density[NEGATIVE], density[POSITIVE])
