"""How large a share of all matches a search finds, from queries that were searched twice.

Each query is searched as it is served and again exactly; what the served search finds is a part
of what there is. The matches of one query are found or missed together, so the query is the unit,
not the match. docs/methods.md section 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pipeline.statistics.intervals import CONFIDENCE, UNKNOWN, Interval
from pipeline.statistics.sequences import Numbers, beta_binomial


@dataclass(frozen=True, kw_only=True, slots=True)
class Rechecks:
    """Sums over the queries that were searched twice; those of two replicas add up."""

    matches: float = 0.0
    """Sum of y, the true matches of a query."""
    missed: float = 0.0
    """Sum of m, those of them that the served search did not find."""
    matches_squared: float = 0.0
    """Sum of y * y."""
    missed_squared: float = 0.0
    """Sum of m * m."""
    cross: float = 0.0
    """Sum of m * y."""

    def __add__(self, other: Rechecks) -> Rechecks:
        """The sums over the queries of both."""
        return Rechecks(
            matches=self.matches + other.matches,
            missed=self.missed + other.missed,
            matches_squared=self.matches_squared + other.matches_squared,
            missed_squared=self.missed_squared + other.missed_squared,
            cross=self.cross + other.cross,
        )

    def match_recall(self) -> Interval:
        """Share of all matches found, with bounds that hold at every look; unknown without any."""
        if not self.matches > 0:
            return UNKNOWN
        found = found_share(
            self.matches, self.missed, self.matches_squared, self.missed_squared, self.cross
        )
        value, lower, upper = (float(end) for end in found)
        return Interval(value, lower, upper)


def found_share(
    matches: ArrayLike, missed: ArrayLike, matches_squared: ArrayLike, missed_squared: ArrayLike,
    cross: ArrayLike,
) -> tuple[Numbers, Numbers, Numbers]:
    """Share found, its lower and its upper bound, of the sums of ``Rechecks`` at any looks.

    All of one shape, ``matches`` above 0. A confidence sequence for the share that is missed: a
    beta mixture (``beta_binomial``) on the effective number of independent matches, that is all
    matches over the size of the clusters in which they are missed. That size is measured, and one
    imagined query, as large as that of a typical match, that loses everything is added to what it
    is measured from: few misses say little about how large the next may be. So, without a miss,
    the bound is the rule of three at all looks on the effective number of queries (Kish), the
    square of the sum over the sum of squares, and not on the number of matches.
    """
    y, m, yy, mm, my = (
        np.asarray(sums, float)
        for sums in (matches, missed, matches_squared, missed_squared, cross)
    )
    share, typical = m / y, yy / y
    residual = np.maximum(mm - 2 * share * my + share**2 * yy, 0.0)
    together = (residual + typical**2) / (m * (1 - share) + typical)
    trials = y / np.maximum(together, 1.0)
    # Whole numbers on the safe side of either end.
    least, most = np.floor(share * trials), np.ceil(share * trials)
    alpha = 1 - CONFIDENCE
    lower, _ = beta_binomial(least, np.maximum(np.ceil(trials), least), alpha)
    _, upper = beta_binomial(most, np.maximum(np.floor(trials), most), alpha)
    return 1 - share, np.minimum(1 - upper, 1 - share), np.maximum(1 - lower, 1 - share)
