"""A query request answered: embeddings, search under the threshold, recording, the body.

The one place where the rooms of serving meet: retriever, cursor and recorder.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.distance import Vectors
from pipeline.item_log.overlay import Overlay
from pipeline.live.decisions import RecordsError
from serving.access.key_file import Key
from serving.answers.cursor import (
    Bookmark,
    CursorError,
    Question,
    ReleaseChangedError,
    decode,
    encode,
)
from serving.answers.live_items import LiveItems
from serving.answers.queries import embeddings_of
from serving.answers.recall_watch import RecallWatch
from serving.answers.recorder import Answered, Recorder
from serving.answers.retriever import Answer, Match, Retriever
from serving.counters import Counter, Counters
from serving.responses import RefusedError
from serving.schema.bodies import QueryRequest

GUARD_BAND = Counter(
    "limen_guard_band",
    "Queries with a distance so near the threshold that another batch of the encoder could flip "
    "it; rows are embedded so that none does.", ("release",),
)

_log = logging.getLogger("limen.api")
PAUSE_SECONDS = 30.0
"""After the records failed, how long queries are answered without another try to record."""
SEARCHES = 4
"""How often one request is searched at most, where deletions come amid the search. Every search
begins after all that was acknowledged before it, so the last one is right too."""


class Answering:
    """Answers query requests over one release."""

    def __init__(
        self, retriever: Retriever, recorder: Recorder, live: LiveItems, counters: Counters,
        watch: RecallWatch | None = None, clock: Callable[[], float] = time.time,
    ) -> None:
        """``recorder`` samples what ``retriever`` answered under the changes of ``live``.

        ``watch`` searches a sample of it again; ``clock``: seconds since the epoch.
        """
        self._watch = watch
        self._retriever = retriever
        self._live = live
        self._counters = counters
        self._recorder = recorder
        self._clock = clock
        self._release = retriever.release.id12
        self._paused_until = 0.0

    @property
    def kind(self) -> str:
        """What the release embeds: ``image``, ``vector`` or ``text``."""
        return self._retriever.kind

    def is_ready(self) -> bool:
        """Whether the release finds one of its own items, by the path that serves."""
        return self._retriever.passes_self_query()

    def answer(
        self, request: QueryRequest, key: Key, request_id: str, deadline: float = math.inf
    ) -> dict[str, Any]:
        """The body of the answer; ``RefusedError`` 400, 409 or 422 naming the query.

        504 once the monotonic clock has passed ``deadline`` amid many images.
        Raises ``RecordsError`` where another threshold is asked for and cannot be audited.
        """
        embeddings = embeddings_of(request.queries, self._retriever, deadline)
        threshold = self._retriever.threshold
        if request.threshold is not None:
            threshold = np.float32(request.threshold)
            self._recorder.audit(key.id, key.customer, threshold, request_id, self._clock())
        question = self._question(key.customer, embeddings[0], threshold, request.exact)
        bookmark = _bookmark(request.cursor, question)
        overlay, answers = self._search(request, key.customer, embeddings, threshold, bookmark)
        up_to = overlay.number if bookmark is None else bookmark.up_to
        names = [uuid.uuid4().hex for _ in answers]
        recorded = [False] * len(answers)
        if request.cursor is None:  # a further page is not a further query
            recorded = self._record(names, key.customer, embeddings, answers, threshold, overlay)
            if self._watch is not None and not request.exact:
                self._watch.watch(
                    self._retriever, key.customer, embeddings, threshold, answers, overlay
                )
        results = [
            {
                "id": query.id, "query_id": name,
                **self._body(answer, overlay if "metadata" in request.with_ else None),
                "next_cursor": _next(question, row, answer, up_to),
                "recorded": kept,
            }
            for query, name, row, answer, kept in zip(
                request.queries, names, embeddings, answers, recorded, strict=True
            )
        ]
        source = "calibrated" if request.threshold is None else "request"
        return {
            "release": self._release,
            "threshold": {"value": float(threshold), "source": source,
                          "rule": "distance <= threshold"},
            "results": results,
            "request_id": request_id,
        }

    def _search(
        self, request: QueryRequest, customer: str, embeddings: Vectors, threshold: np.float32,
        bookmark: Bookmark | None,
    ) -> tuple[Overlay, list[Answer]]:
        """The answers, and the changes that they were given under.

        Searched again where something was taken away amid the search: what a deletion was
        acknowledged for is not given any more. ``RefusedError`` 503 where changes are unreadable.
        """
        for _ in range(SEARCHES):
            overlay = self._live.latest(customer)
            answers = self._retriever.answer(
                customer, embeddings, limit=request.limit, threshold=threshold,
                exact=request.exact, overlay=overlay,
                after=None if bookmark is None else bookmark.after,
                up_to=None if bookmark is None else bookmark.up_to,
            )
            if self._live.is_still(overlay, customer):
                break
        if bookmark is None:  # a further page is not a further decision
            self._count_guarded(request, answers)
        return overlay, answers

    def _count_guarded(self, request: QueryRequest, answers: Sequence[Answer]) -> None:
        """Queries that the encoder embedded and that another batch might have decided otherwise."""
        for query, answer in zip(request.queries, answers, strict=True):
            if query.embedding is None and query.embedding_b64 is None:
                band = self._retriever.encoder.batching.band
                if band and answer.margin <= band:
                    self._counters.add(GUARD_BAND, self._release)

    def _record(
        self, names: Sequence[str], customer: str, embeddings: Vectors,
        answers: Sequence[Answer], threshold: np.float32, overlay: Overlay,
    ) -> list[bool]:
        """Which queries were recorded; none while the records cannot be written.

        A search does not fail because its sample cannot be kept: the answer says so. Nor does
        each search wait in turn for records that are in trouble.
        """
        now = self._clock()
        if now < self._paused_until:
            return [False] * len(answers)
        answered = [
            Answered(query_id=name, customer=customer, embedding=row, threshold=threshold,
                     match_count=answer.match_count, overlay=overlay)
            for name, row, answer in zip(names, embeddings, answers, strict=True)
        ]
        try:
            return self._recorder.record(answered, now)
        except RecordsError as error:
            self._paused_until = now + PAUSE_SECONDS
            _log.warning("queries answered and not recorded, for %g s: %s", PAUSE_SECONDS, error)
            return [False] * len(answered)

    def _body(self, answer: Answer, described: Overlay | None) -> dict[str, Any]:
        rejected = answer.nearest_rejected
        return {
            "matches": [self._found(match, described) for match in answer.matches],
            "match_count": answer.match_count,
            "complete": answer.complete,
            "match_recall": answer.match_recall,
            "nearest_rejected": None if rejected is None else self._found(rejected, described),
        }

    def _found(self, match: Match, described: Overlay | None) -> dict[str, Any]:
        """With metadata, read under ``described``, where that is given."""
        found: dict[str, Any] = {"item_id": match.item_id, "distance": float(match.distance)}
        if described is not None:
            found["metadata"] = self._retriever.metadata(match.row, described)
        return found

    def _question(
        self, customer: str, row: NDArray[np.float32], threshold: np.float32, exact: bool
    ) -> Question:
        return Question(release=self._release, customer=customer, query=row,
                        threshold=threshold, exact=exact)


def _next(
    question: Question, row: NDArray[np.float32], answer: Answer, up_to: int
) -> str | None:
    if answer.next_after is None:
        return None
    own = dataclasses.replace(question, query=row)
    return encode(own, Bookmark(*answer.next_after, up_to))


def _bookmark(cursor: str | None, question: Question) -> Bookmark | None:
    if cursor is None:
        return None
    try:
        return decode(cursor, question)
    except ReleaseChangedError as error:
        raise RefusedError(409, "release_changed", str(error)) from None
    except CursorError as error:
        raise RefusedError(400, "invalid_cursor", str(error)) from None
