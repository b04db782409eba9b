"""What the replicas say of themselves, once a second, and what that makes together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from serving.counters import Counter, Totals
from serving.releases.following import SwapRefusal

REPORT_SECONDS = 1.0
"""Between two reports of a replica."""
LIVE_SECONDS = 5.0
"""A replica that has not reported for so long is gone, or as good as gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where one replica stands."""

    replica: str
    """A name that no other replica has or had, a restarted one included."""
    release: str
    """Full id of the release that it answers from."""
    refusal: SwapRefusal | None = None
    """The release that it should answer from and could not open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A replica's standing with all that it counted since it started."""

    standing: Standing
    kinds: tuple[Counter, ...]
    totals: Totals


class MonitorLink(Protocol):
    """The one monitor, wherever it runs."""

    async def metrics(self) -> bytes:
        """The gauges in Prometheus's text format; ``ConnectionError`` where it is away."""

    async def consistency(self, customer: str | None) -> bytes:
        """Drift as JSON, of one customer or (None) of all; raises as ``metrics`` does."""

    async def report(self, report: Report) -> None:
        """Tell it what a replica is and counted."""

    async def replicas(self) -> tuple[Standing, ...]:
        """The replicas that reported of late."""


class Replicas:
    """The latest report of every replica; safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: seconds from any moment on."""
        self._clock = clock
        self._lock = threading.Lock()
        self._reports: dict[str, tuple[float, Report]] = {}

    def report(self, report: Report) -> None:
        """Put ``report`` in place of the replica's last one."""
        with self._lock:
            self._reports[report.standing.replica] = self._clock(), report

    def live(self) -> tuple[Standing, ...]:
        """The standing of each replica that reported of late."""
        since = self._clock() - LIVE_SECONDS
        with self._lock:
            return tuple(
                report.standing for at, report in self._reports.values() if at >= since
            )

    def sums(self) -> Mapping[Counter, Mapping[tuple[str, ...], float]]:
        """Every counter by the values of its labels, summed over the replicas that ever were.

        A replica that is gone keeps its last totals in the sums: they never fall.
        """
        with self._lock:
            reports = [report for _, report in self._reports.values()]
        kinds = {kind.name: kind for report in reports for kind in report.kinds}
        sums: dict[Counter, dict[tuple[str, ...], float]] = {kind: {} for kind in kinds.values()}
        for report in reports:
            for (name, labels), value in report.totals.items():
                of_kind = sums[kinds[name]]
                of_kind[labels] = of_kind.get(labels, 0.0) + value
        return sums
