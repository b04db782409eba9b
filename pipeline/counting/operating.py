"""Counts of pairs by distance, from which every rate of this project is read.

``OperatingCounts`` is the sufficient statistic: for each group and each of 32 buckets of
identities, how many positive and negative pairs fall in each bin of a fixed grid of distances.
Counts add: shards of a job, replicas, time slots, split halves. Thresholds are the edges of the
grid; between edges nothing is known and asking is an error.

Formulas: docs/methods.md section 1.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BUCKETS = 32
NEGATIVE, POSITIVE = 0, 1

Curve = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Grid:
    """Distances at which pairs are counted.

    Bin k holds ``edges[k-1] < d <= edges[k]``, so that cumulated counts obey ``<=``; one more
    bin holds what lies beyond the last edge.
    """

    edges: NDArray[np.float32]
    """(T,) strictly increasing thresholds, cosine distances."""

    def __post_init__(self) -> None:
        """Refuse edges that do not increase."""
        if self.edges.dtype != np.float32 or self.edges.ndim != 1 or self.edges.size == 0:
            raise ValueError("edges: expected a non-empty (T,) float32 array")
        if not (np.diff(self.edges) > 0).all():
            raise ValueError("edges: expected strictly increasing thresholds")

    @property
    def bins(self) -> int:
        """Number of bins: one for each edge and one beyond."""
        return self.edges.size + 1

    def bin_of(self, distances: NDArray[np.float32]) -> NDArray[np.int64]:
        """Bin of each distance, in [0, T]; same shape."""
        return np.searchsorted(self.edges, distances, side="left")

    def position(self, thresholds: NDArray[np.float32]) -> NDArray[np.int64]:
        """Index of each threshold among the edges; ``ValueError`` where one is no edge."""
        wanted = np.asarray(thresholds, np.float32)
        found = np.minimum(np.searchsorted(self.edges, wanted), self.edges.size - 1)
        if not (self.edges[found] == wanted).all():
            raise ValueError("a threshold is no edge of the grid: counts know only their edges")
        return np.asarray(found)

    def require_same(self, other: Grid) -> None:
        """``ValueError`` unless both grids have the same edges."""
        if not np.array_equal(self.edges, other.edges):
            raise ValueError("counts on different grids cannot be added")


class Rates(ABC):
    """The rates of G groups, from counts of pairs on a grid of T edges."""

    __slots__ = ()
    grid: Grid

    @abstractmethod
    def totals(self) -> NDArray[np.float64]:
        """(G, 2) pairs of each group: negatives, positives."""

    @abstractmethod
    def accepted(self) -> NDArray[np.float64]:
        """(G, 2, T) pairs of each group accepted at each edge."""

    def far(self) -> Curve:
        """(G, T) share of negative pairs accepted, in [0, 1]; NaN without negatives."""
        return self._rate(NEGATIVE)

    def sensitivity(self) -> Curve:
        """(G, T) share of positive pairs accepted, in [0, 1]; NaN without positives."""
        return self._rate(POSITIVE)

    def frr(self) -> Curve:
        """(G, T) share of positive pairs rejected, in [0, 1]; NaN without positives."""
        return 1.0 - self.sensitivity()

    def precision(self) -> Curve:
        """(G, T) share of accepted pairs that are positive; NaN where none is accepted."""
        accepted = self.accepted()
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(accepted[:, POSITIVE] / accepted.sum(axis=1))

    def utility(self, c: float = 1.0) -> Curve:
        """(G, T) F-measure of specificity and sensitivity, in [0, 1]; NaN without positives.

        ``c = 1``, the default, is their harmonic mean.
        Zhang et al., ICLR 2024, arXiv:2307.04047; docs/methods.md section 1.
        """
        return utility(self.sensitivity(), 1.0 - self.far(), c)

    def _rate(self, kind: int) -> Curve:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.accepted()[:, kind] / self.totals()[:, kind, None])

    def bounds(
        self, threshold: float | np.float32
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Least and most pairs, both (G, 2), that each group can have accepted at ``threshold``.

        At an edge they are equal, and exact. Between edges the truth lies between the counts of
        the two neighbouring edges (before the first: between none and the first; beyond the last:
        between the last and all pairs), so the error is at most the pairs of one bin. Raises
        ``ValueError`` for a threshold that is not a number.
        """
        value = np.float32(threshold)
        if np.isnan(value):
            raise ValueError("threshold is not a number; expected a cosine distance")
        accepted = self.accepted()
        none, everything = np.zeros((*accepted.shape[:2], 1)), self.totals()[:, :, None]
        steps = np.concatenate([none, accepted, everything], axis=2)
        below = int(np.searchsorted(self.grid.edges, value, side="right"))
        above = int(np.searchsorted(self.grid.edges, value, side="left")) + 1
        return steps[:, :, below], steps[:, :, above]


@dataclass(frozen=True, slots=True)
class OperatingCounts(Rates):
    """Pairs by group, bucket, kind and distance bin."""

    grid: Grid
    groups: tuple[str, ...]
    """(G,) names of the groups, sorted and unique."""
    pairs: NDArray[np.float64]
    """(G, 32, 2, T + 1) counts; weights are allowed; axis 2 is NEGATIVE, POSITIVE."""

    def __post_init__(self) -> None:
        """Refuse shapes and names that do not fit."""
        expected = (len(self.groups), BUCKETS, 2, self.grid.bins)
        if self.pairs.shape != expected:
            raise ValueError(f"pairs: expected shape {expected}, got {self.pairs.shape}")
        if list(self.groups) != sorted(set(self.groups)):
            raise ValueError("groups: expected sorted, unique names")

    def __add__(self, other: OperatingCounts) -> OperatingCounts:
        """The counts of both; groups are united by name."""
        self.grid.require_same(other.grid)
        groups = tuple(sorted(set(self.groups) | set(other.groups)))
        return OperatingCounts(
            self.grid, groups, self.select(groups).pairs + other.select(groups).pairs
        )

    def select(self, groups: Sequence[str]) -> OperatingCounts:
        """The counts of these groups, in sorted order; a group never seen counts nothing."""
        names = tuple(sorted(set(groups)))
        row = {name: i for i, name in enumerate(self.groups)}
        pairs = np.zeros((len(names), *self.pairs.shape[1:]))
        for i, name in enumerate(names):
            if name in row:
                pairs[i] = self.pairs[row[name]]
        return OperatingCounts(self.grid, names, pairs)

    def totals(self) -> NDArray[np.float64]:
        """(G, 2) pairs of each group: negatives, positives."""
        return np.asarray(self.pairs.sum(axis=(1, 3)))

    def accepted(self) -> NDArray[np.float64]:
        """(G, 2, T) pairs of each group accepted at each edge."""
        return np.asarray(self.pairs.sum(axis=1)[:, :, :-1].cumsum(axis=2))


def utility(sensitivity: Curve, specificity: Curve, c: float = 1.0) -> Curve:
    """``(1 + c^2) spec sens / (c^2 spec + sens)``; 0 where both are 0, NaN where either is NaN."""
    top = (1.0 + c * c) * specificity * sensitivity
    bottom = c * c * specificity + sensitivity
    return np.where(bottom == 0, 0.0, top / np.where(bottom == 0, 1.0, bottom))


def bucket_of(identities: Iterable[str]) -> NDArray[np.int64]:
    """(n,) bucket in [0, 32) of each identity (live: of each query id), by a stable hash."""
    digests = (hashlib.blake2b(name.encode(), digest_size=1).digest() for name in identities)
    return np.fromiter((digest[0] % BUCKETS for digest in digests), np.int64)


def save_counts(path: Path, counts: Mapping[str, OperatingCounts]) -> None:
    """Write named counts into one ``.npz``; read back by ``load_counts``."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, entry in counts.items():
        arrays[f"{name}.edges"] = entry.grid.edges
        arrays[f"{name}.groups"] = np.asarray(entry.groups, dtype=np.str_)
        arrays[f"{name}.pairs"] = entry.pairs
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_counts(path: Path) -> dict[str, OperatingCounts]:
    """Read the counts that ``save_counts`` wrote, by name."""
    with np.load(path, allow_pickle=False) as arrays:
        names = sorted({key.rsplit(".", 1)[0] for key in arrays})
        return {
            name: OperatingCounts(
                Grid(arrays[f"{name}.edges"]),
                tuple(str(group) for group in arrays[f"{name}.groups"]),
                arrays[f"{name}.pairs"],
            )
            for name in names
        }
