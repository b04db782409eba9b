"""A plan: which rows of a table to label, how probable each was to be drawn, what that buys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.audit.allocation import Allocation, believed, for_budget, for_margin
from pipeline.audit.cells import AuditError, Cells
from pipeline.audit.draws import Drawer, Drawn
from pipeline.audit.tables import Decisions, DecisionTable
from pipeline.audit.targets import Question, Target, target_of

Shares = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Wish:
    """What an audit is to tell, and at what price."""

    questions: Sequence[Question] = ()
    """None: the precision of every set."""
    margin: float | None = None
    """Half-width of every interval, in (0, 1)."""
    budget: int | None = None
    """Labels there may be."""
    shares: Callable[[Cells], Shares] | None = None
    """(B,) true-match shares of the cells as an earlier audit has them; NaN: unknown."""
    shown: Sequence[str] = ()
    """Columns that a person needs to judge a row."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What to label, in the order in which to label it."""

    decisions: Decisions
    cells: Cells
    questions: tuple[Question, ...]
    targets: tuple[Target, ...]
    allocation: Allocation
    drawn: Drawn
    rows: pa.Table
    """(n,) the rows drawn: their ``key``, and the columns that a person is shown."""
    known: Drawn
    """Rows that the sets hold and that earlier audits labelled, in no order."""
    known_rows: pa.Table
    """(k,) the same of those."""


def plan(
    decisions: Decisions, wish: Wish, seed: int, known: tuple[Shares, Shares] | None = None
) -> Plan:
    """A sample that holds the margin for every target, or the best that the budget buys.

    Two passes over the table. Given margin and budget, the fewest labels for the margin;
    ``AuditError`` where they are more than the budget, which says what margin the budget buys.
    ``seed``: of the permanent random numbers, the same for ever. ``known``: the numbers of rows
    that earlier audits of the same seed labelled, and the inclusion probability of each.
    """
    table = DecisionTable(decisions)
    cells = table.cells()
    shares = believed(wish.shares(cells) if wish.shares else None, cells)
    questions = tuple(wish.questions or (Question("precision", (name,)) for name in cells.sets))
    targets = tuple(target_of(question, cells, shares) for question in questions)
    allocation = _allocation(cells, targets, wish, shares)
    drawer = Drawer(allocation, known)
    columns = [*wish.shown, *([decisions.score] if decisions.score else [])]
    for part in table.parts(decisions.key):
        drawer.add(part.first, table.cell_of(part), table.numbers_of(part, seed))
    drawn = drawer.drawn()
    known_rows = drawer.known()
    return Plan(decisions, cells, questions, targets, allocation, drawn,
                _looked_up(table, drawn, columns), known_rows,
                _looked_up(table, known_rows, columns))


def _looked_up(table: DecisionTable, drawn: Drawn, columns: Sequence[str]) -> pa.Table:
    places, back = np.unique(drawn.row, return_inverse=True)
    return table.rows(places, columns).take(pa.array(back))


def _allocation(
    cells: Cells, targets: Sequence[Target], wish: Wish, shares: Shares
) -> Allocation:
    if wish.margin is None:
        if wish.budget is None:
            raise AuditError("give a margin, a budget of labels, or both")
        return for_budget(cells, targets, wish.budget, shares)
    found = for_margin(cells, targets, wish.margin, shares)
    if wish.budget is not None and found.total > wish.budget:
        bought = for_budget(cells, targets, wish.budget, shares)
        raise AuditError(
            f"a margin of {wish.margin:g} needs {found.total} labels, the budget is "
            f"{wish.budget}: it buys a margin of {float(bought.margin.max()):.3f}; raise the "
            "budget, or give no margin"
        )
    return found
