"""Two releases compared in what they decide: which decisions flip, and whether that is better.

A flip is a pair (a query, an item that its customer may see) that one release accepts and the
other does not. Where both labels are known a flip is right (the second release is correct where
the first was not) or wrong. Each release decides with its own encoder, threshold and index; its
utility curves are taken over its own calibration range, since two embeddings have two scales.
Counts: ``pipeline/evaluation/flips.py``; intervals: ``pipeline/evaluation/changes.py``.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.consistency.opis import Opis, opis_difference, opis_of
from pipeline.consistency.ranges import far_curve, fine_grid, spaced
from pipeline.counting.operating import Grid, OperatingCounts
from pipeline.counting.queries import count_pairs
from pipeline.evaluation.changes import Change, Difference, Share, difference
from pipeline.evaluation.flips import Decider, count_flips
from pipeline.statistics.intervals import Interval

ALL = "all customers"
"""Name of the line over all of them."""


class ComparisonError(ValueError):
    """Items on which two releases cannot be compared; the message is one line."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One of the two releases."""

    name: str
    """The first digits of its id."""
    decider: Decider
    calibration_range: tuple[float, float]
    """Its calibration range, cosine distances."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The second release against the first."""

    names: tuple[str, str]
    thresholds: tuple[np.float32, np.float32]
    overall: Difference
    """Counts and shares over all pairs; FAR and FRR as means over the customers."""
    customers: tuple[Difference, ...]
    """By name."""
    opis: tuple[Opis, Opis]
    """Over the customers, on the labelled pairs."""
    opis_change: Interval
    """Corrected OPIS of the second minus that of the first, paired by bucket of identities."""
    spacing: str
    """Of the thresholds in both calibration ranges."""

    def document(self) -> dict[str, object]:
        """All of it as JSON-ready data; unknown numbers are null."""
        return {
            "releases": list(self.names),
            "thresholds": [float(threshold) for threshold in self.thresholds],
            "overall": _plain(self.overall),
            "customers": [_plain(entry) for entry in self.customers],
            "opis": [_plain(entry) for entry in self.opis],
            "opis_change": _plain(self.opis_change),
            "spacing": self.spacing,
        }


def compare(
    first: Contender, second: Contender, measured: NDArray[np.object_], spacing: str
) -> Comparison:
    """Compare two releases that have embedded the same items.

    ``measured``: the labels by which a decision may be called right or wrong (those that neither
    release was trained on). ``spacing``: as for ``ranges.spaced``, for both. Raises
    ``ComparisonError`` where no item asks, and where a calibration range holds no such thresholds
    on these items.
    """
    if not len(first.decider.people.queries):
        raise ComparisonError("no item asks; expected items of role 'both' or 'query'")
    flips = count_flips(first.decider, second.decider, measured)
    (counts_a, range_a), (counts_b, range_b) = (
        _curve(side, measured, spacing) for side in (first, second)
    )
    return Comparison(
        names=(first.name, second.name),
        thresholds=(first.decider.threshold, second.decider.threshold),
        overall=difference(ALL, flips, np.arange(len(flips.customers))),
        customers=tuple(
            difference(name, flips, np.asarray([place]))
            for place, name in enumerate(flips.customers)
        ),
        opis=(opis_of(counts_a, range_a), opis_of(counts_b, range_b)),
        opis_change=opis_difference(counts_b, counts_a, (range_b, range_a)),
        spacing=spacing,
    )


def _curve(
    side: Contender, measured: NDArray[np.object_], spacing: str
) -> tuple[OperatingCounts, NDArray[np.float32]]:
    """Counts on the thresholds of the release's calibration range, and these."""
    queries, gallery = side.decider.people.queries, side.decider.people.gallery
    known = set(measured.tolist())
    queries = queries.take(np.asarray([label in known for label in queries.label], np.bool_))
    counted = np.asarray([label in known for label in gallery.label], np.bool_)
    low, high = side.calibration_range
    fine = None
    if not len(queries):
        spacing = "cosine"  # nothing to count: any thresholds do
    try:
        if spacing == "log_far":
            pooled = count_pairs(fine_grid(), queries, gallery, counted, pooled=True)
            fine = far_curve(pooled.operating(), "groups")
        thresholds = spaced(low, high, spacing, far_curve=fine)
    except ValueError as error:
        raise ComparisonError(f"release {side.name}: no curve to compare: {error}") from None
    counts = count_pairs(Grid(thresholds), queries, gallery, counted, side.decider.proposals)
    return counts.operating(), thresholds


def _plain(value: object) -> object:
    """Dataclasses as mappings, unknown numbers as null; a change with its interval."""
    if isinstance(value, Change):
        return {
            "before": _plain(value.before), "after": _plain(value.after),
            "change": _plain(value.interval()),
        }  # fmt: skip
    if isinstance(value, Share):
        return _plain(value.interval())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
