"""What is recorded of a served query: the decision, the pairs drawn for review, the verdicts.

Only types and errors; ``pipeline/live/records.py`` keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class RecordsError(ValueError):
    """Records that cannot be read or written as asked; the message is one line."""


class RecordsUnavailableError(RecordsError):
    """The database cannot be reached or stays locked; trying again later may succeed."""


class VerdictError(RecordsError):
    """A verdict that was refused, and with it its whole batch."""

    def __init__(self, index: int, message: str) -> None:
        """``index``: position of the refused verdict in its batch."""
        super().__init__(f"verdict {index}: {message}")
        self.index = index


class UnknownPairError(VerdictError):
    """The verdict names a query or a draw that is not there for this customer."""


class ContradictoryVerdictError(VerdictError):
    """The draw already has the opposite verdict; the first one stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """One recorded query and how its visible pairs lay."""

    query_id: str
    release: str
    customer: str
    at: float
    """Seconds since the epoch."""
    recorded_probability: float
    """Probability, in (0, 1], with which this query was recorded."""
    threshold: float
    """The threshold that decided; a float32 value, exact."""
    match_count: int
    histogram: NDArray[np.uint32]
    """(T + 1,) all visible pairs by bin of the release's grid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """One request that asked for another threshold than the release's."""

    request_id: str
    key_id: str
    customer: str
    release: str
    threshold: float
    """The threshold that decided instead; a float32 value, exact."""
    at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """One pair of a recorded query, drawn for review with a known probability."""

    draw_id: str
    query_id: str
    item_id: str
    distance: float
    bin: int
    probability: float
    """Probability, in (0, 1], with which the pair was drawn, given its query is recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A person's word on a pair; volunteered where ``draw_id`` is None."""

    query_id: str
    item_id: str
    is_match: bool
    draw_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """A drawn pair that waits for its verdict."""

    draw_id: str
    query_id: str
    item_id: str
    customer: str
    distance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewedQuery:
    """A recorded query all of whose draws have verdicts."""

    query_id: str
    customer: str
    recorded_probability: float
    histogram: NDArray[np.uint32]
    """(T + 1,) all visible pairs by bin."""
    positive_bins: NDArray[np.int64]
    """(k,) bins of the drawn pairs found to be matches."""
    positive_probabilities: NDArray[np.float64]
    """(k,) probability with which each of them was drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """How much is recorded of one customer under one release."""

    customer: str
    queries: float
    """Served queries, estimated: each recorded one counts 1 / P(recorded)."""
    recorded: int
    """Recorded queries."""
    drawn_verdicts: int
    """Verdicts on drawn pairs."""
    volunteered_verdicts: int
    """Verdicts on other pairs; in no gauge but their own count."""
