"""Decision sets with known true matches: members that overlap, and their vote."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.allocation import Allocation
from pipeline.audit.cells import Cells, cells_of
from pipeline.audit.draws import Drawer, Drawn
from pipeline.audit.ensemble import majority
from pipeline.audit.estimates import Labels
from pipeline.audit.numbers import of_rows

NAMES = ("first", "second", "third", "vote")


@dataclass(frozen=True, eq=False)
class World:
    """m rows, their decisions and whether they are true matches."""

    columns: list[NDArray[np.bool_]]
    match: NDArray[np.bool_]
    names: tuple[str, ...] = NAMES

    def cells(self, score: NDArray[np.float64] | None = None) -> tuple[Cells, NDArray[np.int64]]:
        return cells_of(self.names, self.columns, score)

    def precisions(self) -> NDArray[np.float64]:
        return np.array([self.match[column].mean() for column in self.columns])


def voting_world(
    rng: np.random.Generator, overlap: float, rows: int, shares: tuple[float, float]
) -> World:
    """Three members of ``rows`` rows each and their majority.

    Two members share ``overlap`` of their rows, all three the same ones. ``shares``: true matches
    among the shared rows, and among the others.
    """
    core = round(overlap * rows)
    own = rows - core
    columns = []
    for place in range(3):
        column = np.zeros(core + 3 * own, np.bool_)
        column[:core] = True
        column[core + place * own : core + (place + 1) * own] = True
        columns.append(column)
    columns.append(majority("vote", NAMES[:3]).accepts(columns))
    match = rng.random(core + 3 * own) < np.where(np.arange(core + 3 * own) < core, *shares)
    return World(columns, match)


def draw(allocation: Allocation, cell: NDArray[np.int64], seed: int) -> Drawn:
    drawer = Drawer(allocation)
    drawer.add(0, cell, of_rows(0, cell.size, seed))
    return drawer.drawn()


def labels_of(
    world: World, drawn: Drawn, score: NDArray[np.float64] | None = None
) -> Labels:
    return Labels(drawn.cell, world.match[drawn.row], drawn.inclusion,
                  None if score is None else score[drawn.row])
