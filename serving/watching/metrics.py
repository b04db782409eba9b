"""Prometheus names: a snapshot as metric families, made anew at each scrape.

A gauge whose value is unknown is absent. Labels are bounded by the snapshot: the customers with
most traffic by name, the rest as ``_other``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from pipeline.statistics.intervals import Interval
from serving.watching.drift import CustomerGauges, Snapshot

_INTERVALS: tuple[tuple[str, str, Callable[[CustomerGauges], Interval]], ...] = (
    ("inconsistency", "Mean squared gap of the customer's utility curve to the release's mean.",
     lambda gauges: gauges.inconsistency),
    ("inconsistency_drift", "Inconsistency now minus at calibration.",
     lambda gauges: gauges.inconsistency_drift),
    ("curve_shift", "Mean squared move of the utility curve since calibration; 0 if unchanged.",
     lambda gauges: gauges.curve_shift),
    ("utility_change", "Utility at the served threshold now minus at calibration.",
     lambda gauges: gauges.utility_change),
)
_VALUES: tuple[tuple[str, str, Callable[[CustomerGauges], float]], ...] = (
    ("far", "Share of negative pairs accepted at the served threshold.",
     lambda gauges: gauges.far),
    ("frr", "Share of true matches within the horizon rejected at the served threshold.",
     lambda gauges: gauges.frr),
    ("precision", "Share of accepted pairs that are true matches.",
     lambda gauges: gauges.precision),
    ("reviewed_queries", "Reviewed queries behind the customer's gauges.",
     lambda gauges: gauges.reviewed),
    ("customer_calibrated",
     "1: compared with the customer's own calibration; 0: with the release's mean curve.",
     lambda gauges: float(gauges.calibrated)),
)
_BY_CUSTOMER = ("release", "customer")


class DriftCollector(Collector):
    """Reads one release's snapshot when scraped; register it in a registry of its own."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        *,
        match_recall: float = math.nan,
        info: Mapping[str, str] | None = None,
    ) -> None:
        """``match_recall``: the release's, calibrated; ``info``: further labels of the release."""
        self._snapshot = snapshot
        self._match_recall = match_recall
        self._info = dict(info or {})

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not already read the records."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metric families of the snapshot."""
        now = self._snapshot()
        yield InfoMetricFamily(
            "limen_release", "The release that is served.", self._info | {"release": now.release}
        )
        yield _release_gauge("threshold", "The served threshold.", now, float(now.threshold))
        yield _release_gauge(
            "match_recall", "Calibrated share of true matches that the search finds.", now,
            self._match_recall,
        )
        yield from _opis(now)
        for name, text, interval in _INTERVALS:
            yield from _interval_gauges(now, name, text, interval)
        for name, text, value in _VALUES:
            family = GaugeMetricFamily(f"limen_{name}", text, labels=_BY_CUSTOMER)
            for customer in now.customers:
                _add(family, (now.release, customer.customer), value(customer))
            yield family
        yield from _counters(now)


def _release_gauge(name: str, text: str, now: Snapshot, value: float) -> Metric:
    family = GaugeMetricFamily(f"limen_{name}", text, labels=("release",))
    _add(family, (now.release,), value)
    return family


def _opis(now: Snapshot) -> Iterator[Metric]:
    text = "Operating-point inconsistency over the customers with enough evidence."
    families = {
        bound: GaugeMetricFamily(f"limen_opis{bound}", text, labels=("release", "kind"))
        for bound in ("", "_lower", "_upper")
    }
    if now.opis is not None:
        _add(families[""], (now.release, "raw"), now.opis.raw)
        for bound, value in _bounds(now.opis.corrected):
            _add(families[bound], (now.release, "corrected"), value)
    yield from families.values()


def _interval_gauges(
    now: Snapshot, name: str, text: str, interval: Callable[[CustomerGauges], Interval]
) -> Iterator[Metric]:
    families = {
        bound: GaugeMetricFamily(f"limen_{name}{bound}", text, labels=_BY_CUSTOMER)
        for bound in ("", "_lower", "_upper")
    }
    for customer in now.customers:
        for bound, value in _bounds(interval(customer)):
            _add(families[bound], (now.release, customer.customer), value)
    yield from families.values()


def _counters(now: Snapshot) -> Iterator[Metric]:
    recorded = CounterMetricFamily(
        "limen_recorded_queries", "Queries recorded, a sample of those served.",
        labels=_BY_CUSTOMER,
    )
    verdicts = CounterMetricFamily(
        "limen_verdicts", "Verdicts kept; only drawn ones move a gauge.",
        labels=(*_BY_CUSTOMER, "kind"),
    )
    for volume in now.volumes:
        labels = (now.release, volume.customer)
        recorded.add_metric(labels, volume.recorded)
        verdicts.add_metric((*labels, "drawn"), volume.drawn_verdicts)
        verdicts.add_metric((*labels, "volunteered"), volume.volunteered_verdicts)
    yield recorded
    yield verdicts


def _bounds(interval: Interval) -> tuple[tuple[str, float], ...]:
    return (("", interval.value), ("_lower", interval.lower), ("_upper", interval.upper))


def _add(family: GaugeMetricFamily, labels: tuple[str, ...], value: float) -> None:
    """Add a sample; what is unknown has none."""
    if not math.isnan(value):
        family.add_metric(labels, value)
