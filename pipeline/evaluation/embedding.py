"""One embedding measured: its threshold from the calibrate classes, its rates on the report's.

The same measurement serves the release (through its index) and a model that is only compared
with it (no index: every pair is proposed).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.calibration.choice import (
    NO_PAIRS,
    CalibrationError,
    Choice,
    choose,
    curve_thresholds,
    operating_grid,
    require_units,
)
from pipeline.calibration.points import OperatingPoint, operating_points
from pipeline.calibration.rates import class_rates, fine_counts
from pipeline.calibration.rules import CalibrationConfig
from pipeline.consistency.opis import Opis, opis_of
from pipeline.counting.operating import OperatingCounts
from pipeline.counting.queries import IdentityCounts, Proposals, count_pairs
from pipeline.data.items import Items, missing
from pipeline.distance import Vectors
from pipeline.evaluation.retrieval import recall_at_1
from pipeline.search.gallery import Gallery, build_gallery
from pipeline.search.visibility import Queries

CALIBRATE, REPORT = "calibrate", "report"


@dataclass(frozen=True, slots=True)
class Population:
    """A gallery and the queries that meet it."""

    gallery: Gallery
    queries: Queries
    split: NDArray[np.object_]
    """(n,) split of each query."""
    across: tuple[NDArray[np.object_], NDArray[np.object_]] | None
    """A value of each query and gallery row that must differ for the second R@1; or None."""

    def of(self, *splits: str) -> tuple[Queries, NDArray[np.bool_]]:
        """The queries of these splits, and the mask of the gallery rows they count against."""
        return (
            self.queries.take(np.isin(self.split.astype(np.str_), splits)),
            np.isin(self.gallery.split.astype(np.str_), splits),
        )


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one embedding does on one population, at its own threshold."""

    choice: Choice
    thresholds: NDArray[np.float32]
    """(101,) thresholds of the calibration range."""
    calibrate: IdentityCounts
    report: IdentityCounts
    baseline: OperatingCounts
    """All queries against the whole labelled gallery: what live traffic is compared with."""
    opis: Opis
    """Over the customers, on the report classes."""
    recall: tuple[float, int]
    """R@1 on the report classes, and its number of queries."""
    recall_across: tuple[float, int] | None
    """R@1 with query and match apart in the recipe's ``across`` column."""

    def points(self, split: str) -> tuple[OperatingPoint, tuple[OperatingPoint, ...]]:
        """Mean and customers at the threshold, on ``calibrate`` or ``report`` classes."""
        counts = self.calibrate if split == CALIBRATE else self.report
        return operating_points(counts, self.choice.threshold)


def require_measurable(
    items: Items, across: str = "", config: CalibrationConfig | None = None
) -> None:
    """Refuse before a training what the calibration after it would refuse.

    Raises ``CalibrationError`` where there is no column ``across``, where no customer has a
    positive and a negative pair among the calibrate classes, and where the customers or classes
    that have both are too few for the risk control of ``config``.
    """
    if across:
        _column(items.metadata, across)
    counted = items.take(np.flatnonzero((items.split == CALIBRATE) & ~missing(items.label)))
    rows = list(zip(counted.customer, counted.label, counted.role, strict=True))
    stored = Counter((customer, label) for customer, label, role in rows if role != "query")
    sizes = Counter(customer for customer, _, role in rows if role != "query")
    customers: tuple[set[object], set[object]] = set(), set()
    classes: tuple[set[object], set[object]] = set(), set()
    for customer, label, role in {row for row in rows if row[2] != "gallery"}:
        seen = {customer, None}
        same = sum(stored[whose, label] for whose in seen)
        # Never an item with itself.
        kinds = (same > (role == "both"), sum(sizes[whose] for whose in seen) > same)
        for kind in np.flatnonzero(kinds):
            customers[kind].add(customer)
            classes[kind].add(label)
    if not customers[0] & customers[1]:
        raise CalibrationError(NO_PAIRS)
    if config is not None:
        with_both = classes if config.unit == "label" else customers
        require_units(len(with_both[0] & with_both[1]), config)


def population(vectors: Vectors, items: Items, across: str = "") -> Population:
    """Items that are served or measured, with their embeddings (n, d), as gallery and queries."""
    stored = np.flatnonzero(items.role != "query")
    asking = np.flatnonzero(items.role != "gallery")
    gallery = build_gallery(vectors[stored], items.take(stored))
    queries = items.take(asking)
    apart = None
    if across:
        apart = (_column(queries.metadata, across), _column(gallery.metadata, across))
    return Population(
        gallery,
        Queries(vectors[asking], queries.item_id, queries.label, queries.customer),
        queries.split,
        apart,
    )


def measure(
    people: Population, config: CalibrationConfig, proposals: Proposals | None = None
) -> Measurement:
    """Choose a threshold on the calibrate classes and measure the report classes at it.

    ``proposals``: as for ``measure_at``. Raises ``CalibrationError`` where the data carry no
    threshold.
    """
    return measure_at(people, chosen(people, config, proposals), config.spacing, proposals)


def chosen(
    people: Population, config: CalibrationConfig, proposals: Proposals | None = None
) -> Choice:
    """The threshold that the rule takes on the calibrate classes; raises as ``measure`` does.

    FAR is that of all pairs, and so at least the served one; where the rule looks at positives,
    those that the served path does not find are rejected ones.
    """
    queries, counted = people.of(CALIBRATE)
    found = None if config.rule == "far_target" else proposals
    fine = fine_counts(queries, people.gallery, counted, found, pooled=True)
    if config.unit == "customer":
        return choose(fine, config)
    return choose(fine, config, class_rates(queries, people.gallery, counted, found))


def measure_at(
    people: Population, choice: Choice, spacing: str, proposals: Proposals | None = None
) -> Measurement:
    """Measure both splits at a threshold that is given.

    With ``proposals``, every rate is that of the served path, query by query: what the index does
    not propose counts as rejected, but where the search ends up looking at everything.
    """
    grid, thresholds = operating_grid(choice, spacing), curve_thresholds(choice, spacing)

    def count(*splits: str) -> IdentityCounts:
        queries, counted = people.of(*splits)
        return count_pairs(grid, queries, people.gallery, counted, proposals)

    report = count(REPORT)
    queries, counted = people.of(REPORT)
    across = None
    if people.across is not None:
        apart = (people.across[0][people.split == REPORT], people.across[1])
        across = recall_at_1(queries, people.gallery, counted, apart)
    return Measurement(
        choice=choice,
        thresholds=thresholds,
        calibrate=count(CALIBRATE),
        report=report,
        baseline=count(CALIBRATE, REPORT).operating(),
        opis=opis_of(report.operating(), thresholds),
        recall=recall_at_1(queries, people.gallery, counted),
        recall_across=across,
    )


def _column(metadata: pa.Table, name: str) -> NDArray[np.object_]:
    if name not in metadata.column_names:
        raise CalibrationError(
            f"report.across: no metadata column {name!r}; "
            f"there are: {', '.join(metadata.column_names) or 'none'}"
        )
    return np.asarray(metadata[name].to_pylist(), np.object_)
