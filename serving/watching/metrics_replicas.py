"""Prometheus names of what the replicas count: their sums as families, made at each scrape.

A label ``customer`` is bounded: those with the largest sums by name, the rest as ``_other``.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.counters import Counter
from serving.watching import drift, latency
from serving.watching.drift import OTHER
from serving.watching.replicas import Replicas

CUSTOMER = "customer"
"""The label whose values are bounded."""


class ReplicasCollector(Collector):
    """Reads the replicas' reports when scraped; register it in a registry of its own."""

    def __init__(self, replicas: Replicas) -> None:
        """``replicas``: what they last reported."""
        self._replicas = replicas

    def describe(self) -> Iterable[Metric]:
        """Nothing: what is counted is known when it was counted."""
        return []

    def collect(self) -> Iterator[Metric]:
        """A family for each counter, the request times, and which release is served where."""
        served = GaugeMetricFamily(
            "limen_replicas", "Replicas that answer from the release.", labels=("release",)
        )
        releases = Tally(standing.release[:12] for standing in self._replicas.live())
        for release, count in sorted(releases.items()):
            served.add_metric((release,), count)
        yield served
        sums = self._replicas.sums()
        for kind in sorted(sums.keys() - set(latency.KINDS), key=lambda kind: kind.name):
            family = CounterMetricFamily(kind.name, kind.text, labels=kind.labels)
            for labels, value in sorted(_bounded(kind, sums[kind]).items()):
                family.add_metric(labels, value)
            yield family
        yield latency.histogram(sums)


def _bounded(
    kind: Counter, values: Mapping[tuple[str, ...], float]
) -> Mapping[tuple[str, ...], float]:
    """The values with at most ``MAX_CUSTOMERS`` customers named."""
    if CUSTOMER not in kind.labels:
        return values
    place = kind.labels.index(CUSTOMER)
    by_customer: dict[str, float] = {}
    for labels, value in values.items():
        by_customer[labels[place]] = by_customer.get(labels[place], 0.0) + value
    ranked = sorted(by_customer, key=lambda name: (-by_customer[name], name))
    named = set(ranked[: drift.MAX_CUSTOMERS]) - {OTHER}
    bounded: dict[tuple[str, ...], float] = {}
    for labels, value in values.items():
        who = labels[place] if labels[place] in named else OTHER
        key = (*labels[:place], who, *labels[place + 1 :])
        bounded[key] = bounded.get(key, 0.0) + value
    return bounded
