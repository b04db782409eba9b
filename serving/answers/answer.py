"""What a query is answered: a page of its matches, and what is known of all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.item_log.seen import Position, Seen
from pipeline.search.threshold import Found


@dataclass(frozen=True, slots=True)
class Match:
    """An item at its deciding distance."""

    item_id: str
    distance: np.float32
    row: int
    """Gallery row, or past the gallery one of an item added online; for ``Retriever.metadata``."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one query is answered."""

    query_index: int
    matches: tuple[Match, ...]
    """By (distance, item_id); at most ``limit``, those after ``after``."""
    match_count: int
    """All matches, whatever ``limit`` and ``after``."""
    complete: bool
    """Whether nothing cut the count short."""
    match_recall: float
    """1.0 where no match can be missing, else the measured share that such a search finds."""
    nearest_rejected: Match | None
    """The nearest item that is no match; None if all visible items match."""
    next_after: Position | None
    """Where the next page starts; None if this is the last."""
    margin: float
    """From the threshold to the nearest distance that was decided, on either side; inf if none."""


def answer_of(
    index: int, seen: Seen, found: Found, limit: int, after: Position | None,
    threshold: np.float32,
) -> Answer:
    """The answer to query ``index``: of all that was ``found`` at most ``limit`` matches."""
    start = 0 if after is None else seen.place_after(found, after)
    stop = min(start + limit, found.match_count)
    matches = tuple(_match(seen, found, place) for place in range(start, stop))
    last = matches[-1] if matches and stop < found.match_count else None
    rejected = found.match_count < found.rows.size
    return Answer(
        query_index=index,
        matches=matches,
        match_count=found.match_count,
        complete=True,
        match_recall=found.match_recall,
        nearest_rejected=_match(seen, found, found.match_count) if rejected else None,
        next_after=None if last is None else (last.distance, last.item_id),
        margin=_margin(found, threshold),
    )


def _margin(found: Found, threshold: np.float32) -> float:
    either = found.distances[max(0, found.match_count - 1) : found.match_count + 1]
    return float(np.abs(either.astype(np.float64) - threshold).min(initial=np.inf))


def _match(seen: Seen, found: Found, place: int) -> Match:
    row = int(found.rows[place])
    return Match(seen.item_id(row), found.distances[place], row)
