"""The live match recall as Prometheus shows it: from the sums of all replicas, at each scrape.

Absent as long as no match was searched for twice. The bounds hold at every scrape at once: they
are looked at again and again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.answers.recall_watch import rechecks_of
from serving.counters import Counter

_NAME = "limen_match_recall_live"
_TEXT = "Share of true matches that the served search found, of queries searched again exactly."


class RecallCollector(Collector):
    """Reads the sums when scraped; register it in a registry of its own."""

    def __init__(
        self, sums: Callable[[], Mapping[Counter, Mapping[tuple[str, ...], float]]]
    ) -> None:
        """``sums``: what the replicas count, together, by counter and values of its labels."""
        self._sums = sums

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not already ask the replicas."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The share and its bounds, of every release that answered queries."""
        families = {
            bound: GaugeMetricFamily(f"{_NAME}{bound}", _TEXT, labels=("release",))
            for bound in ("", "_lower", "_upper")
        }
        for release, rechecks in sorted(rechecks_of(self._sums()).items()):
            share = rechecks.match_recall()
            for bound, value in (("", share.value), ("_lower", share.lower),
                                 ("_upper", share.upper)):
                if not math.isnan(value):
                    families[bound].add_metric((release,), value)
        yield from families.values()
