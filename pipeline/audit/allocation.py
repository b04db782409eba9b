"""How many rows of each stratum to label: as few as hold every margin, or all of a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.audit.cells import AuditError, Cells
from pipeline.audit.strata import Strata, scatter, strata_of
from pipeline.audit.targets import Target

Z = float(stats.norm.isf(0.025))
LEAST = 2
"""Labels of a stratum that any target needs: with one alone its scatter is unknown."""
LABELS_A_STRATUM = 4
"""On average at least, so that merging small cells never costs the sample its own estimate."""

_FLOOR = 0.05  # no cell is believed purer than 95 %
_ROUNDS = 300
_HALVINGS = 40


@dataclass(frozen=True, eq=False)
class Allocation:
    """Rows to label of each stratum, and what that buys."""

    strata: Strata
    labels: NDArray[np.int64]
    """(H,) rows to label."""
    margin: NDArray[np.float64]
    """(K,) expected half-width of each target's interval (95 %)."""
    needed: NDArray[np.int64]
    """(K,) labels that bear on each target."""

    @property
    def total(self) -> int:
        """Labels in all."""
        return int(self.labels.sum())


def believed(shares: NDArray[np.float64] | None, cells: Cells) -> NDArray[np.float64]:
    """(B,) true-match shares to plan with: one half where unknown, never purer than 95 %."""
    if shares is None:
        return np.full(cells.size.size, 0.5)
    return np.clip(np.where(np.isnan(shares), 0.5, shares), _FLOOR, 1 - _FLOOR)


def for_margin(
    cells: Cells,
    targets: Sequence[Target],
    margin: float,
    shares: NDArray[np.float64] | None = None,
) -> Allocation:
    """The fewest labels by which every target is known to ``margin``, 0 < margin < 1 (95 %).

    ``shares`` (B,): P(true match) in each cell from an earlier audit; NaN: unknown.
    """
    if not 0 < margin < 1:
        raise AuditError(f"margin: expected between 0 and 1, got {margin!r}")
    shares = believed(shares, cells)
    # More labels than independent samples need it never takes.
    most = sum(independent(target, margin) for target in targets) // LABELS_A_STRATUM
    most = max(1, min(most, _strata_worth(targets)))
    while True:
        strata = strata_of(cells, most)
        labels = _fewest(scatter(cells, strata, targets, shares), strata.size, margin)
        fewer = max(1, int(labels.sum()) // LABELS_A_STRATUM)
        if strata.size.size <= fewer:
            return _bought(cells, targets, shares, strata, labels)
        most = min(fewer, strata.size.size - 1)


def for_budget(
    cells: Cells,
    targets: Sequence[Target],
    budget: int,
    shares: NDArray[np.float64] | None = None,
) -> Allocation:
    """The narrowest margin, the same for every target, that ``budget`` labels buy.

    ``AuditError`` for a budget too small to label two rows of anything.
    """
    if budget < LEAST:
        raise AuditError(f"budget: expected at least {LEAST} labels, got {budget}")
    shares = believed(shares, cells)
    strata = strata_of(cells, max(1, min(budget // LABELS_A_STRATUM, _strata_worth(targets))))
    spread = scatter(cells, strata, targets, shares)
    low, high = 0.0, 1.0  # labels for every row; for two of each stratum
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = int(_fewest(spread, strata.size, middle).sum()) <= budget
        low, high = (low, middle) if enough else (middle, high)
    return _bought(cells, targets, shares, strata, _fewest(spread, strata.size, high))


def _strata_worth(targets: Sequence[Target]) -> int:
    """Strata beyond which finer ones save next to nothing, and only take time to find."""
    return max(256, 8 * len(targets))


def independent(target: Target, margin: float, share: float = 0.5) -> int:
    """Labels of a simple random sample of a target's own rows (Cochran, finite population)."""
    share = min(max(share, _FLOOR), 1 - _FLOOR)
    # Of a difference every row counts 1 or -1, over more rows than bear on it.
    scale = float(np.abs(target.weight).sum()) if target.rows else 0.0
    large = Z**2 * share * (1 - share) * scale**2 / margin**2
    return math.ceil(large / (1 + (large - 1) / target.rows)) if large > 0 else 0


def _bought(
    cells: Cells,
    targets: Sequence[Target],
    shares: NDArray[np.float64],
    strata: Strata,
    labels: NDArray[np.int64],
) -> Allocation:
    spread = scatter(cells, strata, targets, shares)
    margin = Z * np.sqrt(_variance(spread, strata.size, labels))
    return Allocation(strata, labels, margin, labels @ (spread > 0).astype(np.int64))


def _variance(
    spread: NDArray[np.float64],
    size: NDArray[np.int64],
    labels: NDArray[np.int64] | NDArray[np.float64],
) -> NDArray[np.float64]:
    """(K,) variance of each target's estimate."""
    with np.errstate(divide="ignore"):
        left = np.where(labels > 0, 1 / labels - 1 / size, 0.0)
    return np.asarray(np.maximum(left, 0.0) @ spread)


def _fewest(
    spread: NDArray[np.float64], size: NDArray[np.int64], margin: float
) -> NDArray[np.int64]:
    """(H,) labels: Neyman's rule for all targets at once, by multipliers; then rounded up.

    At the optimum n_h^2 = sum_k lam_k a_hk, lam_k = 0 where a target holds with room to spare.
    """
    goal = (margin / Z) ** 2
    needed = (spread > 0).any(axis=1)
    least = np.where(needed, np.minimum(LEAST, size), 0)
    if goal <= 0:
        return np.where(needed, size, 0)
    # Alone, target k would need lam = (sum_h sqrt(a_hk) / (goal + sum_h a_hk / N_h))^2.
    alone = np.sqrt(spread).sum(axis=0) / (goal + (spread / size[:, None]).sum(axis=0))
    multipliers = np.square(alone)
    best = np.where(needed, size, 0)
    for _ in range(_ROUNDS):
        labels = np.clip(np.sqrt(spread @ multipliers), least, size)
        excess = _variance(spread, size, labels) / goal
        # What it takes at most to make every target hold: more labels everywhere.
        whole = np.clip(labels * max(1.0, float(excess.max(initial=0))), least, size)
        whole = np.ceil(whole - 1e-9).astype(np.int64)
        if whole.sum() < best.sum():
            best = whole
        multipliers = multipliers * np.sqrt(np.maximum(excess, 1e-12))
    return np.asarray(best)
