"""One embedding as it was measured, and what is said of it as JSON, for third parties to read.

The keys are listed at ``document``; unknown numbers are null; ``schema`` grows when a key changes.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from pipeline.calibration.points import OperatingPoint
from pipeline.evaluation.findings import interval
from pipeline.evaluation.measures import Measures, SpacedOpis
from pipeline.statistics.intervals import UNKNOWN, Interval

SCHEMA = 1
KIND = "limen-evaluation"

UNITS = {"customer": ("customer", "customers"), "label": ("class", "classes")}
"""One group and several of them, in words."""

Document = dict[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """An embedding with its measures."""

    name: str
    """File or release, as people know it."""
    digest: str
    """sha256 of the embeddings' file, or the id of the release."""
    dimension: int
    mark: str
    """What its threshold is: served, given, or found at a FAR target."""
    measures: Measures
    release: str | None = None
    """Id of the release whose encoder made the embeddings."""
    notes: tuple[str, ...] = ()
    """Sentences on what was scaled, left out or widened."""

    @property
    def unit(self) -> tuple[str, str]:
        """One group and several of them, in words."""
        return UNITS[self.measures.settings.group]


def document(
    ours: Evaluated,
    items_digest: str,
    other: Evaluated | None = None,
    difference: Interval | None = None,
) -> Document:
    """All of it as JSON-ready data; unknown numbers are null.

    ``schema``, ``kind``, ``items_digest`` (sha256 of the labels table), then of the embedding
    ``name``, ``digest``, ``release``, ``dimension``, ``notes``, ``group``, ``items``;
    ``retrieval``: ``recall_at`` by k, ``map_at_r``, ``queries``;
    ``calibration_range``: ``low``, ``high``, ``far`` targets, ``pooling``, ``widened``;
    ``spacing`` (the main one), ``opis`` by spacing: ``raw``, ``corrected``, ``population``,
    ``groups_raw``, ``groups_corrected``, ``eps``; ``groups``, ``groups_without_positives``;
    ``operating_point``: ``threshold``, ``chosen``, ``overall``, ``groups`` (each with ``name``,
    ``far``, ``frr``, ``precision``, ``utility``, ``identities``); ``far_spread``,
    ``frr_spread``; ``curve``: ``thresholds``, ``mean_utility``; ``histogram``: ``edges``,
    ``negative``, ``positive`` densities. With a second embedding: ``against``, the same keys, and
    ``opis_minus_against``. Intervals are ``value``, ``lower``, ``upper`` at 95 %.
    """
    found: Document = {
        "schema": SCHEMA, "kind": KIND, "items_digest": items_digest, **_embedding(ours),
    }  # fmt: skip
    if other is not None:
        found["against"] = _embedding(other)
        found["opis_minus_against"] = None if difference is None else interval(difference)
    return found


def _embedding(entry: Evaluated) -> Document:
    m = entry.measures
    utility = m.utility[~(m.utility != m.utility).any(axis=1)]
    mean = [float(value) for value in utility.mean(axis=0)] if len(utility) else []
    return {
        "name": entry.name, "digest": entry.digest, "release": entry.release,
        "dimension": entry.dimension, "notes": list(entry.notes),
        "group": m.settings.group, "items": m.items,
        "retrieval": {
            "recall_at": {str(k): number(value) for k, value in m.retrieval.recall.items()},
            "map_at_r": number(m.retrieval.map_at_r), "queries": m.retrieval.queries,
        },
        "calibration_range": {
            "low": float(m.range_low), "high": float(m.range_high),
            "far": list(m.settings.range_far),
            "pooling": "groups" if m.settings.group == "customer" else "pairs",
            "widened": m.widened,
        },
        "spacing": m.settings.spacing,
        "opis": {spaced.spacing: _opis(spaced) for spaced in m.spaced},
        "groups": len(m.groups),
        "groups_without_positives": len(m.groups) - m.main.opis.groups_raw,
        "operating_point": {
            "threshold": float(m.threshold), "chosen": entry.mark,
            "overall": _point(m.overall), "groups": [_point(point) for point in m.points],
        },
        "far_spread": _plain(m.far_spread), "frr_spread": _plain(m.frr_spread),
        "curve": {"thresholds": m.main.thresholds.tolist(), "mean_utility": mean},
        "histogram": {name: [number(value) for value in getattr(m.histogram, name).tolist()]
                      for name in ("edges", "negative", "positive")},
    }  # fmt: skip


def _opis(entry: SpacedOpis) -> Document:
    return {
        "raw": number(entry.opis.raw),
        "corrected": interval(entry.opis.corrected),
        "population": number(entry.population),
        "groups_raw": entry.opis.groups_raw,
        "groups_corrected": entry.opis.groups_corrected,
        "eps": None if entry.eps is None else _plain(entry.eps),
    }


def _point(point: OperatingPoint) -> Document:
    known = not math.isnan(point.utility)
    bounds = (point.utility_interval.lower, point.utility_interval.upper)
    return {
        "name": point.name, "far": interval(point.far), "frr": interval(point.frr),
        "precision": number(point.precision),
        "utility": interval(Interval(point.utility, *bounds) if known else UNKNOWN),
        "identities": point.identities,
    }  # fmt: skip


def _plain(entry: object) -> Document:
    """A dataclass as JSON-ready data."""
    assert dataclasses.is_dataclass(entry)
    assert not isinstance(entry, type)

    def clean(value: object) -> object:
        if isinstance(value, dict):
            return {key: clean(inner) for key, inner in value.items()}
        return number(value) if isinstance(value, float) else value

    return {key: clean(value) for key, value in dataclasses.asdict(entry).items()}


def number(value: float) -> float | None:
    """A number as JSON: null where unknown."""
    return None if math.isnan(value) else value
