"""A second release answers a share of the queries too, unseen, to count what it would change.

A flip is a pair of a query and an item of both galleries that one release accepts and the other
rejects, each under its own threshold. Nothing here can delay or change an answer: queries wait
in a short queue, and one that finds no place is counted and dropped. Items that came or went
online since the releases were made are left out on both sides.
"""

from __future__ import annotations

import logging
import queue
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from pipeline.search.gallery import Gallery
from serving.answers.queries import embeddings_of
from serving.counters import Counter, Counters
from serving.releases.engine import Engine
from serving.releases.engines import Engines
from serving.responses import RefusedError
from serving.schema.bodies import Query, QueryRequest

_PAIR = ("release", "shadow")
QUERIES = Counter("limen_shadow_queries", "Queries that the shadow release answered too.", _PAIR)
FLIPS = Counter(
    "limen_shadow_flips",
    "Pairs that the shadow release decides otherwise, of items that both releases hold: what "
    "changed online is left out; direction: what the shadow did.",
    (*_PAIR, "customer", "direction"),
)
SKIPPED = Counter(
    "limen_shadow_skipped",
    "Sampled queries that the shadow release did not answer; reason: full (no place in the "
    "queue), space (an embedding of another network), refused, failed.",
    ("reason",),
)
_WAITING = 32
_log = logging.getLogger("limen.shadow")


@dataclass(frozen=True, slots=True)
class _Asked:
    engine: Engine
    """The one that answered."""
    customer: str
    queries: Sequence[Query]


class Shadow:
    """Compares the engine that answers with another; safe to use from several threads."""

    def __init__(
        self, shadows: Engines, counters: Counters, *, share: float,
        draw: Callable[[], float] | None = None,
    ) -> None:
        """``share``: of the requests, in [0, 1]; ``draw``: a random number in [0, 1)."""
        self._shadows = shadows
        self._counters = counters
        self._share = share
        self._draw = draw or Random().random  # fresh entropy: replicas draw apart
        self._waiting: queue.Queue[_Asked] = queue.Queue(_WAITING)
        threading.Thread(target=self._run, name="limen-shadow", daemon=True).start()

    def offer(self, engine: Engine, customer: str, request: QueryRequest) -> None:
        """Maybe compare the queries of a request that ``engine`` answered; returns at once.

        Further pages and queries under another threshold are not decisions of the release.
        """
        if request.cursor is not None or request.threshold is not None:
            return
        if self._draw() >= self._share:
            return
        try:
            self._waiting.put_nowait(_Asked(engine, customer, request.queries))
        except queue.Full:
            self._counters.add(SKIPPED, "full", by=len(request.queries))

    def finish(self) -> None:
        """Wait until everything that was taken in is compared."""
        self._waiting.join()

    def _run(self) -> None:
        while True:
            asked = self._waiting.get()
            try:
                self._compare(asked, self._shadows.current())
            except RefusedError:
                self._counters.add(SKIPPED, "refused", by=len(asked.queries))
            except (OSError, MemoryError, RuntimeError, ValueError, LookupError) as error:
                self._counters.add(SKIPPED, "failed", by=len(asked.queries))
                _log.warning("the shadow release did not answer: %s", error)
            finally:
                del asked  # nothing waits here with an engine in its hands
                self._waiting.task_done()

    def _compare(self, asked: _Asked, shadow: Engine) -> None:
        engine = asked.engine
        if shadow.release.id == engine.release.id:
            return
        queries = asked.queries
        if _model(engine) != _model(shadow):
            queries = [query for query in queries if not _is_embedding(query)]
            if len(queries) < len(asked.queries):
                self._counters.add(SKIPPED, "space", by=len(asked.queries) - len(queries))
            if not queries:
                return
        pair = engine.release.id12, shadow.release.id12
        ours = _accepted(engine, asked.customer, queries)
        theirs = _accepted(shadow, asked.customer, queries)
        for mine, other in zip(ours, theirs, strict=True):
            for direction, items, gallery in (
                ("accepted", other - mine, engine.retriever.gallery),
                ("rejected", mine - other, shadow.retriever.gallery),
            ):
                flips = sum(_sees(gallery, asked.customer, item) for item in items)
                self._counters.add(FLIPS, *pair, asked.customer, direction, by=flips)
        self._counters.add(QUERIES, *pair, by=len(queries))


def _model(engine: Engine) -> str:
    """Digest of the network: equal networks embed into one space."""
    return engine.release.manifest.files["model.onnx"].sha256


def _is_embedding(query: Query) -> bool:
    return query.embedding is not None or query.embedding_b64 is not None


def _accepted(engine: Engine, customer: str, queries: Sequence[Query]) -> list[set[str]]:
    """Ids of all items that match each query."""
    retriever = engine.retriever
    embeddings = embeddings_of(queries, retriever)
    found = retriever.index.search_batch(customer, embeddings, retriever.threshold)
    return [{retriever.item_id(int(row)) for row in one.rows[: one.match_count]} for one in found]


def _sees(gallery: Gallery, customer: str, item_id: str) -> bool:
    """Whether the customer's part of the gallery has the item; ids are sorted in each part."""
    for rows in gallery.visible(customer):
        place = bisect_left(gallery.item_id, item_id, lo=rows.start, hi=rows.stop)
        if place < rows.stop and gallery.item_id[place] == item_id:
            return True
    return False
