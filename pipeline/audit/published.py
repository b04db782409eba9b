"""The published procedure: a parent's sample lends labels to its children, one after another.

"Estimating Precisions for Multiple Binary Classifiers Under Limited Samples", ECML PKDD 2020.
Kept for comparison: the cells of ``allocation.py`` need fewer labels for the same margins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.cells import AuditError, codes_of

Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sampled:
    """What the procedure labelled, and the precisions that it read off."""

    precision: NDArray[np.float64]
    """(J,) the parent's, then each child's in turn."""
    labelled: Mask
    """(m,) rows that were labelled."""

    @property
    def labels(self) -> int:
        """Different rows labelled."""
        return int(self.labelled.sum())


def sequential(
    sets: Sequence[Mask],
    match: Mask,
    sizes: Sequence[int],
    rng: np.random.Generator,
    *,
    mix: Literal["reshuffle", "resample"] = "reshuffle",
) -> Sampled:
    """Precisions of ``sets`` (J of (m,)), the parent first, from samples of ``sizes`` (J,) rows.

    ``match`` (m,) answers what a label would say. For each child: S+, what is labelled of it
    already; S-, rows outside all sets before, in the proportion in which the child lies outside,
    never more than a sample of its own would hold there; S_remain up to the child's size.
    ``reshuffle`` reads each membership cell's mean off its own labels, which is unbiased;
    ``resample`` draws a sample of the child's size out of the cells' labels with replacement
    first, as published, and has about twice the variance. ``AuditError`` for an empty set or a
    size below 1.
    """
    columns = [np.asarray(column, np.bool_) for column in sets]
    codes = codes_of(columns)
    labelled = np.zeros(codes.size, np.bool_)
    before = np.zeros(codes.size, np.bool_)
    found = np.empty(len(columns))
    for place, (inside, size) in enumerate(zip(columns, sizes, strict=True)):
        if not inside.any() or size < 1:
            raise AuditError(f"set {place}: expected rows and a sample size of 1 or more")
        size = min(size, int(inside.sum()))
        labelled |= _drawn(inside, before, labelled, size, rng)
        # Cells by the sets so far: within each the labelled rows are a simple random sample.
        cells = codes & ((1 << (place + 1)) - 1)
        _complete(cells, inside, labelled, rng)
        again = rng if mix == "resample" else None
        found[place] = _by_cell(cells, (inside, labelled), match, size, again)
        before |= inside
    return Sampled(found, labelled)


def _drawn(
    inside: Mask, before: Mask, labelled: Mask, size: int, rng: np.random.Generator
) -> Mask:
    """(m,) the rows newly labelled for one set."""
    new = np.zeros(inside.size, np.bool_)
    lent = int((inside & labelled).sum())
    outside = np.flatnonzero(inside & ~before)
    shared = int((inside & before).sum())
    wanted = round(lent * outside.size / shared) if shared else size
    # Where much is lent and little shared, the published proportion asks for more than a sample
    # of the child's own would hold outside.
    wanted = min(max(wanted, 1), outside.size, -(-size * outside.size // int(inside.sum())))
    new[rng.choice(outside, wanted, replace=False)] = True
    missing = size - lent - wanted
    if missing > 0:
        rest = np.flatnonzero(inside & ~labelled & ~new)
        new[rng.choice(rest, min(missing, rest.size), replace=False)] = True
    return new


def _complete(cells: Rows, inside: Mask, labelled: Mask, rng: np.random.Generator) -> None:
    """Label a row of each cell of the set that has no label yet: its mean would be unknown."""
    for cell in np.setdiff1d(cells[inside], cells[labelled]).tolist():
        labelled[rng.choice(np.flatnonzero(cells == cell))] = True


def _by_cell(
    cells: Rows,
    within: tuple[Mask, Mask],
    match: Mask,
    size: int,
    rng: np.random.Generator | None,
) -> float:
    """The set's precision from each cell's own labels; drawn with replacement if ``rng``."""
    inside, labelled = within
    total = 0.0
    for cell in np.unique(cells[inside]).tolist():
        here = cells == cell
        share = here.sum() / inside.sum()
        known = match[here & labelled]
        if rng is not None:
            known = rng.choice(known, max(1, round(size * share)))
        total += share * known.mean()
    return float(total)
