"""What the server keeps of the queries it answered: a sampled share, and pairs to review.

Each query is recorded with a known probability, independently of its answer, which is the rate
unless recording would take too much of the time (``pace.py``). Of a recorded query every visible
pair is counted by distance, and some are drawn for review (``pipeline/live/population.py``).
``record`` has written when it returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.counting.operating import Grid
from pipeline.item_log.overlay import Overlay
from pipeline.live.decisions import Decision, Draw, Override
from pipeline.live.population import DrawPlan, draw
from pipeline.live.records import Records
from serving.answers.pace import Pace

Visible = Callable[
    [str, NDArray[np.float32], Overlay | None], tuple[NDArray[np.int64], NDArray[np.float32]]
]
"""(customer, embedding (d,), online changes) to all visible rows (m,) and their deciding distances
(m,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A query that was answered."""

    query_id: str
    """Unique over all queries ever recorded."""
    customer: str
    embedding: NDArray[np.float32]
    """(d,) unit vector."""
    threshold: np.float32
    """The threshold that decided."""
    match_count: int
    overlay: Overlay | None = None
    """The online changes that it was answered under."""


class Recorder:
    """Samples answered queries of one release into the records."""

    def __init__(
        self,
        records: Records,
        plan: DrawPlan,
        *,
        release: str,
        grid: Grid,
        rate: float,
        visible: Visible,
        item_id: Callable[[int, Overlay | None], str],
        rng: np.random.Generator,
        pace: Pace | None = None,
    ) -> None:
        """``rate``: share of the queries to record, in [0, 1]; ``grid``: the release's.

        ``visible`` and ``item_id`` (of a row under the changes) come from the retriever. Two
        recorders must not share a seed of ``rng``. ``pace`` may lower the rate.
        """
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"rate: expected a share between 0 and 1, got {rate!r}")
        self._records = records
        self._plan = plan
        self._release = release
        self._grid = grid
        self._rate = rate
        self._visible = visible
        self._item_id = item_id
        self._rng = rng
        self._pace = pace or Pace(math.inf)

    def warm_up(self, customer: str, embedding: NDArray[np.float32]) -> None:
        """Count the pairs of a query (d,) and keep nothing: so the pace knows what that takes."""
        query = Answered(query_id="", customer=customer, embedding=embedding,
                         threshold=np.float32(0), match_count=0)
        for _ in range(2):  # the first time also compiles
            began = self._pace.spent()
            self._observe(query, 0.0, 1.0)
        self._pace.took(1, self._pace.spent() - began)

    def record(self, queries: Sequence[Answered], at: float) -> list[bool]:
        """Record a sample of ``queries``, answered ``at`` (seconds since the epoch).

        Returns which were recorded; those can be reviewed. Raises ``RecordsError``, and then
        has recorded none.
        """
        probability = self._pace.probability(self._rate, len(queries))
        sampled = [bool(chance < probability) for chance in self._rng.random(len(queries))]
        if not any(sampled):
            return sampled
        began = self._pace.spent()
        decisions: list[Decision] = []
        draws: list[Draw] = []
        for query, chosen in zip(queries, sampled, strict=True):
            if chosen:
                decision, drawn = self._observe(query, at, probability)
                decisions.append(decision)
                draws.extend(drawn)
        self._records.record(decisions, draws)
        self._pace.took(len(decisions), self._pace.spent() - began)
        return sampled

    def audit(
        self, key_id: str, customer: str, threshold: np.float32, request_id: str, at: float
    ) -> None:
        """Record, whatever the rate, who asked for another threshold; raises ``RecordsError``."""
        self._records.add_override(Override(
            request_id=request_id, key_id=key_id, customer=customer, release=self._release,
            threshold=float(threshold), at=at,
        ))

    def _observe(
        self, query: Answered, at: float, probability: float
    ) -> tuple[Decision, list[Draw]]:
        rows, distances = self._visible(query.customer, query.embedding, query.overlay)
        beyond = distances.size
        inside = distances <= self._grid.edges[-1]  # nothing beyond the horizon is drawn
        rows, distances = rows[inside], distances[inside]
        beyond -= distances.size
        order = np.argsort(distances, kind="stable")
        rows, distances = rows[order], distances[order]
        bins = self._grid.bin_of(distances)
        probabilities = self._plan.probabilities(query.customer, bins)
        histogram = np.bincount(bins, minlength=self._grid.bins)
        histogram[-1] = beyond
        decision = Decision(
            query_id=query.query_id,
            release=self._release,
            customer=query.customer,
            at=at,
            recorded_probability=probability,
            threshold=float(query.threshold),
            match_count=query.match_count,
            histogram=histogram.astype(np.uint32),
        )
        drawn = [
            Draw(
                draw_id=f"{query.query_id}.{position}",
                query_id=query.query_id,
                item_id=self._item_id(int(rows[position]), query.overlay),
                distance=float(distances[position]),
                bin=int(bins[position]),
                probability=float(probabilities[position]),
            )
            for position in draw(probabilities, self._rng)
        ]
        return decision, drawn
