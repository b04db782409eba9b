"""What the monitor shows: Prometheus's text for a scraper, JSON for a person or a program.

Both are read from one snapshot; a number that is unknown is absent from the one and null in the
other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson
from prometheus_client import CollectorRegistry, generate_latest

from pipeline.statistics.intervals import Interval
from serving.watching.drift import OTHER, CustomerGauges, Snapshot
from serving.watching.metrics import DriftCollector
from serving.watching.metrics_replicas import ReplicasCollector
from serving.watching.recall_gauges import RecallCollector
from serving.watching.replicas import Replicas


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """The release that is watched."""

    snapshot: Callable[[], Snapshot]
    """Read whenever the gauges are."""
    match_recall: float
    """Calibrated, the least of any segment."""
    info: Mapping[str, str]
    """Further labels of the release."""


class Gauges:
    """The snapshot of one release, with what the replicas count, in the forms asked for."""

    def __init__(self, watched: Watched, replicas: Replicas) -> None:
        """``replicas`` of the server, whichever release they answer from."""
        self.replicas = replicas
        self.watch(watched)

    def watch(self, watched: Watched) -> None:
        """Show another release from now on."""
        registry = CollectorRegistry()
        registry.register(DriftCollector(
            watched.snapshot, match_recall=watched.match_recall, info=watched.info
        ))
        registry.register(ReplicasCollector(self.replicas))
        registry.register(RecallCollector(self.replicas.sums))
        self._snapshot, self._registry = watched.snapshot, registry

    def metrics(self) -> bytes:
        """The gauges in Prometheus's text format."""
        return generate_latest(self._registry)

    def consistency(self, customer: str | None) -> bytes:
        """Drift as JSON, of one customer or (None) of all with enough evidence.

        Of a customer with too little evidence ``drift`` is null; what is recorded is told.
        """
        now = self._snapshot()
        common = {"release": now.release, "threshold": float(now.threshold)}
        if customer is not None:
            mine = set() if customer == OTHER else {customer}  # whoever is called so is not all
            own = [_drift(entry) for entry in now.customers if entry.customer in mine]
            volume = [_fields(entry) for entry in now.volumes if entry.customer in mine]
            body = {**common, "customer": customer, "drift": own[0] if own else None,
                    "recorded": volume[0] if volume else None}
        else:
            opis = now.opis
            body = {
                **common,
                "opis": None if opis is None else {
                    "raw": opis.raw, "corrected": _fields(opis.corrected),
                    "customers": opis.groups_corrected,
                },
                "customers": [_drift(entry) for entry in now.customers],
                "recorded": [_fields(entry) for entry in now.volumes],
            }
        return orjson.dumps(body)


def _drift(gauges: CustomerGauges) -> dict[str, object]:
    return {
        field.name: _fields(value) if isinstance(value, Interval) else _known(value)
        for field in dataclasses.fields(gauges)
        for value in (getattr(gauges, field.name),)
    }


def _fields(entry: object) -> dict[str, object]:
    values = dataclasses.asdict(entry)  # type: ignore[call-overload]
    return {name: _known(value) for name, value in values.items()}


def _known(value: object) -> object:
    """None where a number is unknown: JSON has no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value
