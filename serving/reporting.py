"""A replica tells the monitor where it stands and what it counted, as long as it lives."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from serving.counters import Counters
from serving.watching.replicas import REPORT_SECONDS, MonitorLink, Report, Standing
from serving.web.front import Front

_GLANCE_SECONDS = 0.1
_PATIENCE_SECONDS = 5.0
_log = logging.getLogger("limen.monitor")


@dataclass(frozen=True, kw_only=True, slots=True)
class Replica:
    """One process that answers: its door, and what it tells of itself."""

    front: Front
    standing: Callable[[], Standing]
    counters: Counters

    def report(self) -> Report:
        """What is to be told now."""
        return Report(standing=self.standing(), kinds=self.counters.kinds(),
                      totals=self.counters.totals())

    async def report_always(self, monitor: MonitorLink) -> None:
        """Report once a second, and at once where the replica stands elsewhere than before.

        A monitor that is away misses nothing: the next report has the same totals and more.
        """
        told: Standing | None = None
        at, away = 0.0, False
        while True:
            if self.standing() != told or time.monotonic() - at >= REPORT_SECONDS:
                report, at = self.report(), time.monotonic()
                try:
                    # Not wait_for: in Python 3.11 it can swallow that this task was cancelled.
                    async with asyncio.timeout(_PATIENCE_SECONDS):
                        await monitor.report(report)
                    told, away = report.standing, False
                except OSError as error:  # a TimeoutError is one
                    if not away:
                        _log.warning("the monitor cannot be told what is counted: %s", error)
                    away = True
            await asyncio.sleep(_GLANCE_SECONDS)
