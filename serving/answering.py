"""A query request answered: embeddings, search under the threshold, recording, the body.

The one place where the rooms of serving meet: retriever, cursor and recorder.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decisions import RecordsError
from pipeline.distance import Vectors
from serving.access import Key
from serving.cursor import CursorError, Question, ReleaseChangedError, decode, encode
from serving.queries import embeddings_of
from serving.recorder import Answered, Recorder
from serving.responses import RefusedError
from serving.retriever import Answer, Match, Position, Retriever
from serving.schema import QueryRequest

_log = logging.getLogger("limen.api")
PAUSE_SECONDS = 30.0
"""After the records failed, how long queries are answered without another try to record."""



class Answering:
    """Answers query requests over one release."""

    def __init__(
        self, retriever: Retriever, recorder: Recorder, clock: Callable[[], float] = time.time
    ) -> None:
        """``recorder`` samples what ``retriever`` answered; ``clock``: seconds since the epoch."""
        self._retriever = retriever
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
        answers = self._retriever.answer(
            key.customer, embeddings, limit=request.limit, threshold=threshold,
            exact=request.exact, after=_after(request.cursor, question),
        )
        names = [uuid.uuid4().hex for _ in answers]
        recorded = [False] * len(answers)
        if request.cursor is None:  # a further page is not a further query
            recorded = self._record(names, key.customer, embeddings, answers, threshold)
        results = [
            {
                "id": query.id, "query_id": name,
                **self._body(answer, with_metadata="metadata" in request.with_),
                "next_cursor": self._next(key.customer, row, threshold, request.exact, answer),
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

    def _record(
        self, names: Sequence[str], customer: str, embeddings: Vectors,
        answers: Sequence[Answer], threshold: np.float32,
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
                     match_count=answer.match_count)
            for name, row, answer in zip(names, embeddings, answers, strict=True)
        ]
        try:
            return self._recorder.record(answered, now)
        except RecordsError as error:
            self._paused_until = now + PAUSE_SECONDS
            _log.warning("queries answered and not recorded, for %g s: %s", PAUSE_SECONDS, error)
            return [False] * len(answered)

    def _body(self, answer: Answer, *, with_metadata: bool) -> dict[str, Any]:
        rejected = answer.nearest_rejected
        return {
            "matches": [self._found(match, with_metadata) for match in answer.matches],
            "match_count": answer.match_count,
            "complete": answer.complete,
            "match_recall": answer.match_recall,
            "nearest_rejected": None if rejected is None else self._found(rejected, with_metadata),
        }

    def _found(self, match: Match, with_metadata: bool) -> dict[str, Any]:
        found: dict[str, Any] = {"item_id": match.item_id, "distance": float(match.distance)}
        if with_metadata:
            found["metadata"] = self._retriever.metadata(match.row)
        return found

    def _question(
        self, customer: str, row: NDArray[np.float32], threshold: np.float32, exact: bool
    ) -> Question:
        return Question(release=self._release, customer=customer, query=row,
                        threshold=threshold, exact=exact)

    def _next(
        self, customer: str, row: NDArray[np.float32], threshold: np.float32, exact: bool,
        answer: Answer,
    ) -> str | None:
        if answer.next_after is None:
            return None
        return encode(self._question(customer, row, threshold, exact), answer.next_after)


def _after(cursor: str | None, question: Question) -> Position | None:
    if cursor is None:
        return None
    try:
        return decode(cursor, question)
    except ReleaseChangedError as error:
        raise RefusedError(409, "release_changed", str(error)) from None
    except CursorError as error:
        raise RefusedError(400, "invalid_cursor", str(error)) from None
