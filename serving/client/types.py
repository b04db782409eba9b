"""What is asked and what is answered, as dataclasses; fields as in ``/docs``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Rows = Sequence[float] | NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Content:
    """Exactly one of embedding, vector, text and image."""

    embedding: Rows | None = None
    """(d,) unit vector of the release's space; sent as float32."""
    vector: Rows | None = None
    """(d_in,) encoder input, for releases trained on vectors."""
    text: str | None = None
    image: bytes | Path | None = None
    """An image file, or its bytes."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Query(Content):
    """What to look for."""

    id: str | None = None
    """Comes back unchanged."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Item(Content):
    """An item to put online."""

    item_id: str
    label: str | None = None
    metadata: Mapping[str, str | float | int | bool | None] | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """An item at its distance."""

    item_id: str
    distance: float
    """A float32, exactly."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """Empty unless asked for."""


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one query."""

    id: str | None
    query_id: str
    """Names this query in verdicts."""
    matches: tuple[Match, ...]
    match_count: int
    """All matches, whatever the limit."""
    complete: bool
    match_recall: float
    """1.0 where proven, else the calibrated share of true matches that is found."""
    next_cursor: str | None
    nearest_rejected: Match | None
    recorded: bool


@dataclass(frozen=True, slots=True)
class Threshold:
    """The threshold that decided: ``distance <= value``."""

    value: float
    source: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The answers to all queries of a request."""

    release: str
    threshold: Threshold
    results: tuple[Result, ...]
    request_id: str


@dataclass(frozen=True, slots=True)
class Review:
    """A pair drawn with known probability, waiting for a verdict."""

    draw_id: str
    query_id: str
    item_id: str
    distance: float


@dataclass(frozen=True, slots=True)
class Reviews:
    """The pairs that wait."""

    reviews: tuple[Review, ...]
    release: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a pair is truly a match; of a review where it has its ``draw_id``."""

    query_id: str
    item_id: str
    is_match: bool
    draw_id: str | None = None


@dataclass(frozen=True, slots=True)
class VerdictsKept:
    """How many verdicts were new, and how many there already."""

    accepted: int
    repeated: int


@dataclass(frozen=True, slots=True)
class ItemsKept:
    """What was put is durable, and every later query sees it."""

    accepted: int
    change: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the threshold was chosen."""

    rule: str
    range: tuple[float, ...]
    guarantee: str


@dataclass(frozen=True, slots=True)
class ReleaseFacts:
    """What is served."""

    release: str
    dimension: int
    kind: str
    """What it embeds: ``image``, ``vector`` or ``text``."""
    threshold: Threshold
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class Moved:
    """What the alias means now, and how many replicas answer from it."""

    alias: str
    release: str
    replicas: int
    swapped: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its confidence bounds; None where unknown."""

    value: float | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True, slots=True)
class CustomerDrift:
    """One customer's numbers today against the day of calibration."""

    customer: str
    calibrated: bool
    reviewed: int
    far: float | None
    frr: float | None
    precision: float | None
    inconsistency: Estimate
    inconsistency_drift: Estimate
    curve_shift: Estimate
    utility_change: Estimate


@dataclass(frozen=True, slots=True)
class Recorded:
    """How much is recorded of one customer."""

    customer: str
    queries: float
    recorded: int
    drawn_verdicts: int
    volunteered_verdicts: int


@dataclass(frozen=True, slots=True)
class FleetOpis:
    """OPIS over all customers with enough evidence."""

    raw: float
    corrected: Estimate
    customers: int


@dataclass(frozen=True, slots=True)
class Consistency:
    """Drift of every customer."""

    release: str
    threshold: float
    opis: FleetOpis | None
    customers: tuple[CustomerDrift, ...]
    recorded: tuple[Recorded, ...]


@dataclass(frozen=True, slots=True)
class OwnConsistency:
    """Drift of the key's own customer; None while too little is reviewed."""

    release: str
    threshold: float
    customer: str
    drift: CustomerDrift | None
    recorded: Recorded | None
