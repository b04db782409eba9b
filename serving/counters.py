"""What one replica counts; the monitor adds the replicas up and shows the sums.

A replica reports its totals, never a difference: a report that is lost or comes twice changes
nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

Totals = Mapping[tuple[str, tuple[str, ...]], float]
"""(name of a counter, values of its labels) to the sum since the replica started."""


@dataclass(frozen=True, slots=True)
class Counter:
    """A number that only grows."""

    name: str
    """In Prometheus, without the ``_total`` that its text format adds."""
    text: str
    """What is counted."""
    labels: tuple[str, ...] = ()


class Counters:
    """The counters of one replica; safe to use from several threads."""

    def __init__(self) -> None:
        """Everything at zero."""
        self._lock = threading.Lock()
        self._totals: dict[tuple[str, tuple[str, ...]], float] = {}
        self._kinds: dict[str, Counter] = {}

    def add(self, counter: Counter, *labels: str, by: float = 1.0) -> None:
        """Let ``counter`` grow ``by`` 0 or more; ``labels`` are the values of its labels."""
        if len(labels) != len(counter.labels) or by < 0:
            raise ValueError(f"{counter.name}: expected values of {counter.labels} and by >= 0, "
                             f"got {labels} and {by!r}")
        key = counter.name, labels
        with self._lock:
            self._kinds[counter.name] = counter
            self._totals[key] = self._totals.get(key, 0.0) + by

    def totals(self) -> Totals:
        """A copy of every sum so far."""
        with self._lock:
            return dict(self._totals)

    def kinds(self) -> tuple[Counter, ...]:
        """Every counter that was counted with, by 0 or more."""
        with self._lock:
            return tuple(self._kinds.values())
