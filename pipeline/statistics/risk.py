"""Risk control: what a sample of exchangeable units (customers, classes) says of the next ones.

A *loss* of a unit is the share of its positive pairs that a threshold rejects (it falls with the
threshold), or the share of its negative pairs that it accepts (it rises). Since those shares are
cumulated counts, they never turn. Everything here needs the mean loss over the n units alone.

Three controls of a target ``alpha``: ``plain`` compares the mean itself; ``crc``, conformal risk
control, holds for one more unit in the mean; ``ltt``, learn then test, holds for the population
of units with probability ``1 - delta`` over the sample. Angelopoulos et al., arXiv:2208.02814 and
arXiv:2110.01052; docs/methods.md section 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import rel_entr

Risk = NDArray[np.float64]

CONTROLS = ("plain", "crc", "ltt")


@dataclass(frozen=True, slots=True)
class Control:
    """A target and the way in which it has to hold."""

    kind: str
    """``plain``, ``crc`` or ``ltt``."""
    alpha: float
    """Largest mean loss, in (0, 1)."""
    delta: float = 0.1
    """``ltt`` alone: probability that the sample misleads, in (0, 1)."""

    def holds(self, risk: Risk, units: int) -> NDArray[np.bool_]:
        """(T,) whether each mean loss ``risk`` (T,) in [0, 1] of ``units`` meets the target."""
        if self.kind == "plain":
            return risk <= self.alpha
        if self.kind == "crc":
            return (units * risk + 1) / (units + 1) <= self.alpha
        return ltt_p_value(risk, units, self.alpha) <= self.delta

    def units_needed(self, risk: float = 0.0) -> float:
        """Least number of units with mean loss ``risk`` that meet the target; infinite if none.

        For ``ltt`` and a positive ``risk``: a number that is enough.
        """
        if self.kind == "plain":
            return 1 if risk <= self.alpha else math.inf
        if risk >= self.alpha:
            return math.inf
        if self.kind == "crc":
            number = (1 - self.alpha) / (self.alpha - risk)
        else:
            number = -math.log(self.delta) / float(_kl(np.asarray(risk), self.alpha))
        least = max(math.ceil(round(number, 9)), 1)  # 19.000000000000004 units are 19
        return least if self.holds(np.asarray([risk]), least)[0] else least + 1


def ltt_p_value(risk: Risk, units: int, alpha: float) -> Risk:
    """(T,) p-value of "the true mean loss is above ``alpha``", from each mean over ``units``.

    ``min(exp(-n kl(min(r, alpha), alpha)), e BinomCDF(ceil(n r); n, alpha))``, at most 1:
    Hoeffding's and Bentkus' bounds, for independent losses in [0, 1].
    """
    hoeffding = np.exp(-units * _kl(np.minimum(risk, alpha), alpha))
    errors = np.ceil(np.round(units * risk, 9))  # a sum of shares that is whole but for rounding
    bentkus = math.e * stats.binom.cdf(errors, units, alpha)
    return np.asarray(np.minimum(np.minimum(hoeffding, bentkus), 1.0))


def first_of_falling(holds: NDArray[np.bool_]) -> int | None:
    """Smallest threshold of a loss that falls, by index: tested from the last one downwards.

    Stops at the first that does not hold; None where the last does not.
    """
    failed = np.flatnonzero(~holds)
    first = int(failed[-1]) + 1 if failed.size else 0
    return first if first < holds.size else None


def last_of_rising(holds: NDArray[np.bool_]) -> int | None:
    """Largest threshold of a loss that rises, by index: tested from the first one upwards.

    Stops at the first that does not hold; None where the first does not.
    """
    failed = np.flatnonzero(~holds)
    last = int(failed[0]) - 1 if failed.size else holds.size - 1
    return last if last >= 0 else None


def _kl(r: Risk, alpha: float) -> Risk:
    """Relative entropy of two coins, ``r`` and ``alpha``, in nats."""
    return np.asarray(rel_entr(r, alpha) + rel_entr(1 - r, 1 - alpha))
