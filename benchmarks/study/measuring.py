"""What is said of an embedding: measured by the code of ``limen evaluate``.

Thresholds are those of the calibration range that the *calibrate* classes have (pooled FAR 1e-2
to 1e-1, 101 thresholds of equal chord length); what is reported is measured on the *report*
classes, once with classes as groups, which is the published form, and once with customers. The
operating point is the lower end of the customers' range: mean FAR 1e-2 on the calibrate classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.study.worlds import World
from pipeline.calibration.points import least_utility
from pipeline.consistency.extremes import eps_opis, rate_spreads
from pipeline.consistency.opis import opis_difference, opis_of
from pipeline.consistency.ranges import spaced
from pipeline.counting.classes import ClassCounts
from pipeline.counting.operating import Grid, OperatingCounts
from pipeline.counting.queries import IdentityCounts
from pipeline.data.items import Items, missing
from pipeline.distance import Vectors
from pipeline.evaluation.embedding import CALIBRATE, REPORT, population
from pipeline.evaluation.grouping import Classes, Customers, grouped, operating_of
from pipeline.evaluation.retrieval import recall_at_1
from pipeline.statistics.intervals import Interval

Numbers = dict[str, Any]
GROUPS = ("label", "customer")


@dataclass(frozen=True, slots=True)
class Measured:
    """One embedding under each grouping that its items have."""

    counts: Mapping[str, OperatingCounts | ClassCounts]
    thresholds: Mapping[str, NDArray[np.float32]]
    numbers: Numbers
    """JSON-ready; None for what is unknown."""


def measurable(world: World) -> NDArray[np.bool_]:
    """(n,) the items whose embeddings are measured: of classes that no training saw."""
    return np.isin(world.items.split.astype(np.str_), (CALIBRATE, REPORT))


def measured(world: World, vectors: Vectors) -> Measured:
    """Measure ``vectors`` (k, d), unit rows of the ``measurable`` items, in their order."""
    rows = np.flatnonzero(measurable(world))
    items = dataclasses.replace(world.items.take(rows), kind="vector", content=vectors)
    calibrate = items.split == CALIBRATE
    if not calibrate.any():  # ten digits: no class to spare
        calibrate = items.split == REPORT
    counts, thresholds, found = {}, {}, _retrieved(items, vectors, world.across)
    for group in GROUPS:
        if group == "customer" and missing(items.customer).all():
            found[group] = None
            continue
        chosen = grouped(items, calibrate, group).pooled().far.range()
        edges = spaced(*chosen, "euclidean")
        groups = grouped(items, items.split == REPORT, group)
        counted = groups.count(Grid(edges))
        counts[group], thresholds[group] = operating_of(counted), edges
        found[group] = _group(groups, counted, edges)
    return Measured(counts, thresholds, found)


def difference(ours: Measured, base: Measured) -> Numbers:
    """Corrected OPIS of ``ours`` minus that of ``base``, paired, by grouping."""
    return plain({
        group: opis_difference(
            counts, base.counts[group], (ours.thresholds[group], base.thresholds[group])
        )
        for group, counts in ours.counts.items()
    })  # fmt: skip


def plain(values: Mapping[str, object]) -> Numbers:
    """Dataclasses and numpy's numbers as JSON-ready data, to 6 digits; None for NaN."""
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float | np.floating):
        number = float(value)
        return float(f"{number:.6g}") if math.isfinite(number) else None
    return value


def _group(
    groups: Customers | Classes, counted: IdentityCounts | ClassCounts, edges: NDArray[np.float32]
) -> Numbers:
    counts = operating_of(counted)
    far, frr = rate_spreads(counts, edges)
    opis, curves = opis_of(counts, edges), counts.utility()
    overall, points = groups.points(counted, edges[0])
    worst = Interval(math.nan, math.nan, math.nan)
    if isinstance(counted, IdentityCounts):
        worst = least_utility(counted, edges[0])
    known = [point for point in points if not math.isnan(point.utility)]
    name = min(known, key=lambda point: (point.utility, point.name)).name if known else None
    return plain({
        "range": edges[[0, -1]].tolist(), "opis": opis, "eps": eps_opis(counts, edges),
        "far_spread": far, "frr_spread": frr, "utility": np.nanmean(curves),
        "far": overall.far, "frr": overall.frr, "precision": overall.precision,
        "worst": worst, "worst_name": name, "groups": len(points),
    })  # fmt: skip


def _retrieved(items: Items, vectors: Vectors, across: str) -> Numbers:
    """R@1 of every report item among all others; and among those of other vendors or sets."""
    nobody = np.full(len(items), None, np.object_)
    both = np.full(len(items), "both", np.object_)
    people = population(vectors, dataclasses.replace(items, customer=nobody, role=both), across)
    queries, counted = people.of(REPORT)
    recall, asked = recall_at_1(queries, people.gallery, counted)
    apart = math.nan
    if people.across is not None:
        own = people.across[0][people.split == REPORT], people.across[1]
        apart = recall_at_1(queries, people.gallery, counted, own)[0]
    return plain({"recall": recall, "recall_across": apart, "queries": asked})
