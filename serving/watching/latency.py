"""How many requests there were and how long they took, as counters that add over replicas."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from prometheus_client.core import HistogramMetricFamily

from serving.counters import Counter, Counters

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets, in seconds; one more holds the rest."""

_NAME, _TEXT = "limen_request_seconds", "From the head of a request to its answer, in seconds."
_BUCKET = Counter(f"{_NAME}_bucket", _TEXT, ("operation", "le"))
_SUM = Counter(f"{_NAME}_sum", _TEXT, ("operation",))
_REQUESTS = Counter(
    "limen_requests", "Requests answered or refused, by operation and status.",
    ("operation", "status"),
)
KINDS = (_BUCKET, _SUM)
"""Counters that ``histogram`` shows together, and nothing else shows."""

_LE = (*map(str, BOUNDS), "+Inf")


def count_request(counters: Counters, operation: str, status: int, seconds: float) -> None:
    """Count one request; a bucket does not include the smaller ones until it is shown."""
    counters.add(_REQUESTS, operation, str(status))
    counters.add(_BUCKET, operation, _LE[bisect_left(BOUNDS, seconds)])
    counters.add(_SUM, operation, by=seconds)


def histogram(
    sums: Mapping[Counter, Mapping[tuple[str, ...], float]]
) -> HistogramMetricFamily:
    """What was observed, by operation, with buckets that include the smaller ones."""
    family = HistogramMetricFamily(_NAME, _TEXT, labels=("operation",))
    buckets, seconds = sums.get(_BUCKET, {}), sums.get(_SUM, {})
    for (operation,), total in sorted(seconds.items()):
        cumulated, shown = 0.0, []
        for bound in _LE:
            cumulated += buckets.get((operation, bound), 0.0)
            shown.append((bound, cumulated))
        family.add_metric((operation,), shown, total)
    return family
