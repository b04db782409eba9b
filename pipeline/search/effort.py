"""How far an inexact index has to look: calibrated like the threshold, on rows held out of it.

The true matches of the held-out rows are found by complete search; the least effort that finds
the wanted share of them is what a query is served with. The share is published with its interval,
the query being the unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import distance
from pipeline.distance import Vectors
from pipeline.search.lists import Lists, part
from pipeline.statistics.intervals import clustered_rate

HELD_OUT = 1024
"""Rows that stand in for queries."""

_PAIRS_ACCEPTED = 1e-3  # share of pairs whose distance is the horizon, where none is given
_SAMPLED = 50_000  # rows are enough to see it; no fewer, and less than twice as many
_BLOCK = 8192
_WORTH_DIVIDING = 0.05  # of its lists probed by a query: past it, more and shorter lists are tried
_FINER = 4  # times as many lists
_SHORTEST = 32  # rows of a list in the mean


@dataclass(frozen=True, slots=True)
class Truth:
    """All matches of some rows with the other rows of a segment."""

    queries: NDArray[np.int64]
    """(n,) the rows that ask."""
    owner: NDArray[np.int64]
    """(K,) for each match which of the queries it belongs to, from 0; in rising order."""
    matches: NDArray[np.int64]
    """(K,) the row that matches."""
    horizon: float
    """The distance up to which a pair is a match."""


@dataclass(frozen=True, slots=True)
class Share:
    """What an effort was measured to find."""

    match_recall: float
    """Share of all matches found, ``found / (matches + 1)``: below 1, since it is no proof."""
    match_recall_lower: float
    match_recall_upper: float
    """Its 95 % interval over held-out queries; 0 and 1 where there was no match to measure on."""
    horizon: float
    """The distance up to which a pair was a match in this measurement."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Rows in lists, and which of them a query has to probe."""

    lists: Lists
    assigned: NDArray[np.int64]
    """(m,) the list of each row."""
    nearness: float
    probes: float
    """Mean number of lists that a query probes."""
    share: Share

    @property
    def looked_at(self) -> float:
        """Centroids and rows that a query is compared with."""
        return self.lists.count + self.probes / self.lists.count * self.assigned.size


def calibrated_lists(
    truth: Truth, vectors: Vectors, rows: NDArray[np.int64], largest_norm: float, few: int,
    target: float,
) -> Calibrated:
    """As ``few`` lists as find the ``target`` share by a look at some of them.

    Four times as many where that takes less to look at: rows in more clusters than there are
    lists share theirs with what is not near them. ``rows``: those to cluster on.
    """
    tried = []
    for count in (few, _FINER * few):
        lists, assigned = part(vectors, count, rows, largest_norm)
        effort = least_nearness(truth, vectors, lists, assigned, target)
        tried.append(Calibrated(lists, assigned, *effort))
        coarse = tried[0].probes > _WORTH_DIVIDING * few
        if not coarse or _FINER * few * _SHORTEST > len(vectors):
            break
    return min(tried, key=lambda one: one.looked_at)


def true_matches(vectors: Vectors, held_out: NDArray[np.int64], horizon: float | None) -> Truth:
    """All rows within ``horizon`` of the rows ``held_out``, by the deciding distance.

    None stands for the distance that accepts 1 pair in 1,000.
    """
    asked = np.ascontiguousarray(vectors[held_out])
    if horizon is None:
        horizon = _pair_quantile(vectors, held_out[:64])
    # Beside the product, the horizon, this limit and the deciding distance are rounded.
    error = distance.error_of_products(asked, vectors) + 2.0**-22
    parts = [np.empty((0, 2), np.int64)]
    for start in range(0, len(vectors), _BLOCK):
        some = vectors[start : start + _BLOCK]
        owner, rows = np.nonzero(asked @ some.T >= np.float32(1 - horizon - error))
        parts.append(np.stack([owner, rows + start], axis=1))
    owner, rows = np.concatenate(parts).T
    order = np.argsort(owner, kind="stable")
    owner, rows = owner[order], rows[order]
    found = np.empty(rows.size, np.float32)
    bounds = np.searchsorted(owner, np.arange(len(asked) + 1))
    for place, query in enumerate(asked):
        mine = slice(bounds[place], bounds[place + 1])
        found[mine] = distance.deciding_one(query, vectors, rows[mine])
    kept = distance.accepts(found, np.float32(horizon)) & (rows != held_out[owner])
    return Truth(held_out, owner[kept], rows[kept], float(horizon))


def share_of(truth: Truth, found: NDArray[np.bool_]) -> Share:
    """The share of the matches of ``truth`` that were ``found`` (K,)."""
    size = truth.queries.size
    matches = np.bincount(truth.owner, minlength=size).astype(np.float64)
    missed = np.bincount(truth.owner, ~found, minlength=size).astype(np.float64)
    between = clustered_rate(missed, matches, both_ends=False)
    lower, upper = (0.0, 1.0) if np.isnan(between.value) else (1 - between.upper, 1 - between.lower)
    share = float(found.sum() / (found.size + 1))
    return Share(share, min(lower, share), max(upper, share), truth.horizon)


def least_nearness(
    truth: Truth, vectors: Vectors, lists: Lists, assigned: NDArray[np.int64], target: float
) -> tuple[float, float, Share]:
    """How near to the best a list has to come to be probed, for the ``target`` share of matches.

    With the mean number of lists that this probes, and what it finds; -1 and all of them where
    nothing less will do. ``assigned``: (m,) the list of each row.
    """
    needed = np.empty(truth.matches.size, np.float64)
    ratios = np.empty((truth.queries.size, lists.count), np.float32)
    bounds = np.searchsorted(truth.owner, np.arange(truth.queries.size + 1))
    for number, row in enumerate(truth.queries):
        products = lists.products(vectors[row])
        best = products.max()
        ratios[number] = products / best if best > 0 else 1.0
        mine = slice(bounds[number], bounds[number + 1])
        needed[mine] = ratios[number, assigned[truth.matches[mine]]]
    place = math.ceil(target * (needed.size + 1)) - 1
    nearness = -1.0
    if place < needed.size:
        # A little less: the search multiplies what is divided here.
        nearness = max(float(np.partition(-needed, place)[place] * -1) * (1 - 1e-6), -1.0)
    if nearness <= 0:
        return -1.0, float(lists.count), share_of(truth, np.ones(needed.size, np.bool_))
    return nearness, float((ratios >= nearness).sum(axis=1).mean()), share_of(
        truth, needed >= nearness)  # fmt: skip


def least_rank(
    truth: Truth, needed: NDArray[np.int64], target: float, most: int
) -> tuple[int, Share]:
    """How many of the first-ranked rows hold the ``target`` share; ``needed``: ``ranks_needed``."""
    share = np.cumsum(np.bincount(needed, minlength=most + 1)) / (needed.size + 1)
    enough = np.flatnonzero(share[: most + 1] >= target)
    count = max(1, int(enough[0])) if enough.size else most
    return count, share_of(truth, needed <= count)


def ranks_needed(
    truth: Truth, vectors: Vectors, rank: Callable[[NDArray[np.float32]], NDArray[np.int64]],
    never: int,
) -> NDArray[np.int64]:
    """(K,) for each match the place from 1 at which ``rank`` has it; ``never`` if it has not."""
    needed = np.full(truth.matches.size, never, np.int64)
    bounds = np.searchsorted(truth.owner, np.arange(truth.queries.size + 1))
    for number, row in enumerate(truth.queries):
        mine = slice(bounds[number], bounds[number + 1])
        place = {int(one): k + 1 for k, one in enumerate(rank(vectors[row]))}
        needed[mine] = [place.get(int(one), never) for one in truth.matches[mine]]
    return needed


def _pair_quantile(vectors: Vectors, rows: NDArray[np.int64]) -> float:
    others = np.arange(0, len(vectors), max(1, len(vectors) // _SAMPLED))
    pairs = distance.deciding(vectors[rows], vectors[others])
    pairs[rows[:, None] == others] = distance.MAX_DISTANCE
    place = int(_PAIRS_ACCEPTED * pairs.size)
    return float(np.partition(pairs, place, axis=None)[place])
