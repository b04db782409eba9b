"""Audits of known deciders, many times over: labels, bias, coverage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.audit.deciders import Deciders
from pipeline.audit.allocation import for_margin, independent
from pipeline.audit.cells import cells_of
from pipeline.audit.draws import Drawer
from pipeline.audit.estimates import Labels, estimates
from pipeline.audit.numbers import of_rows
from pipeline.audit.published import sequential
from pipeline.audit.targets import precision

Floats = NDArray[np.float64]
Masks = list[NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class Repeated:
    """The same audit many times, each with other random numbers."""

    labels: float
    """Mean of the labels of an audit."""
    values: Floats
    """(R, J) estimates."""
    covered: Floats
    """(J,) share of the intervals that hold the truth; NaN without intervals."""

    def bias(self, truths: Floats) -> Floats:
        """(J,) mean estimate minus the truth."""
        return np.asarray(self.values.mean(axis=0) - truths)

    def error(self) -> Floats:
        """(J,) standard error of that mean."""
        return np.asarray(self.values.std(axis=0, ddof=1) / np.sqrt(len(self.values)))


def alone(deciders: Deciders, margin: float) -> list[int]:
    """(J,) labels of independent samples."""
    cells, _ = cells_of(deciders.names, deciders.columns)
    return [independent(precision(cells, name), margin) for name in deciders.names]


def by_cells(deciders: Deciders, margin: float, draws: int) -> Repeated:
    """Audits by membership cells."""
    cells, cell = cells_of(deciders.names, deciders.columns)
    targets = [precision(cells, name) for name in deciders.names]
    allocation = for_margin(cells, targets, margin)
    found = []
    for seed in range(draws):
        drawer = Drawer(allocation)
        drawer.add(0, cell, of_rows(0, cell.size, seed))
        drawn = drawer.drawn()
        labels = Labels(drawn.cell, deciders.match[drawn.row], drawn.inclusion)
        some = estimates(cells, allocation.strata, targets, labels)
        found.append([(i.value, i.lower, i.upper) for i in (one.interval for one in some)])
    values = np.array(found)
    truths = deciders.truths
    held = (values[:, :, 1] <= truths) & (truths <= values[:, :, 2])
    return Repeated(allocation.total, values[:, :, 0], held.mean(axis=0))


def by_sequence(
    deciders: Deciders, margin: float, draws: int, *, again: bool = False
) -> Repeated:
    """The published procedure, the vote as the parent; ``again``: with replacement."""
    order = [len(deciders.names) - 1, *range(len(deciders.names) - 1)]
    columns = [deciders.columns[place] for place in order]
    sizes = [alone(deciders, margin)[place] for place in order]
    some = [
        sequential(columns, deciders.match, sizes, np.random.default_rng(seed),
                   mix="resample" if again else "reshuffle")
        for seed in range(draws)
    ]
    values = np.array([one.precision for one in some])[:, np.argsort(order)]
    labels = float(np.mean([one.labels for one in some]))
    return Repeated(labels, values, np.full(len(order), np.nan))


def by_form(
    deciders: Deciders,
    sizes: list[int],
    draws: int,
    form: Callable[[Masks, list[int], int], Floats],
) -> Repeated:
    """Estimates of a form of the published procedure; ``sizes`` with the parent's first."""
    order = [len(deciders.names) - 1, *range(len(deciders.names) - 1)]
    columns = [deciders.columns[place] for place in order]
    values = np.array([form(columns, sizes, seed) for seed in range(draws)])
    return Repeated(np.nan, values[:, np.argsort(order)], np.full(len(order), np.nan))


def lent_alone(match: NDArray[np.bool_]) -> Callable[[Masks, list[int], int], Floats]:
    """Each child's precision from the labels that the parent's sample lends, and nothing else."""
    def form(columns: Masks, sizes: list[int], seed: int) -> Floats:
        rng = np.random.default_rng(seed)
        parent = rng.choice(np.flatnonzero(columns[0]), sizes[0], replace=False)
        return np.array([match[parent[column[parent]]].mean() for column in columns])
    return form


def pooled(match: NDArray[np.bool_]) -> Callable[[Masks, list[int], int], Floats]:
    """Each set's precision from all labels in it so far, as if they were one random sample."""
    def form(columns: Masks, sizes: list[int], seed: int) -> Floats:
        found = []
        for count in range(1, len(columns) + 1):
            some = sequential(columns[:count], match, sizes[:count], np.random.default_rng(seed))
            found.append(match[some.labelled & columns[count - 1]].mean())
        return np.array(found)
    return form


def by_its_cells(match: NDArray[np.bool_]) -> Callable[[Masks, list[int], int], Floats]:
    """The procedure as it is: each set's precision from its membership cells."""
    def form(columns: Masks, sizes: list[int], seed: int) -> Floats:
        return sequential(columns, match, sizes, np.random.default_rng(seed)).precision
    return form
