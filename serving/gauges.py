"""What the monitor shows: Prometheus's text for a scraper, JSON for a person or a program.

Both are read from one snapshot; a number that is unknown is absent from the one and null in the
other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import orjson
from prometheus_client import CollectorRegistry, generate_latest

from pipeline.intervals import Interval
from serving.drift import CustomerGauges, Snapshot
from serving.metrics import DriftCollector


class Gauges:
    """The snapshot of one release in the two forms that are asked for."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], *, match_recall: float, info: Mapping[str, str]
    ) -> None:
        """``snapshot`` is read at every call; ``match_recall`` and ``info`` are the release's."""
        self._snapshot = snapshot
        self._registry = CollectorRegistry()
        self._registry.register(DriftCollector(snapshot, match_recall=match_recall, info=info))

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
            own = [_drift(entry) for entry in now.customers if entry.customer == customer]
            volume = [_fields(entry) for entry in now.volumes if entry.customer == customer]
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
