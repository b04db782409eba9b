"""The online changes as one release shows them, up to date at every request.

The log is asked for the customer's last change before each search, and what is new is folded in
first: a change that any replica acknowledged is seen by every later query on every replica,
without a word between them. A log that cannot be read may hide a deletion: then nothing is
answered. Each replica embeds the changes itself, one by one, so that all get equal bits, and a
customer waits for its own changes only.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.item_log.changes import Change, LogBehindError
from pipeline.item_log.content import ContentError, Embedder
from pipeline.item_log.folded import read_folded
from pipeline.item_log.log import ItemLog
from pipeline.item_log.overlay import UNCHANGED, Embedded, Overlay, row_of
from pipeline.live.decisions import RecordsError
from serving.answers.retriever import Retriever
from serving.counters import Counter, Counters
from serving.responses import RefusedError

SET_ASIDE = Counter(
    "limen_changes_set_aside", "Items put online that the served release cannot show."
)

MOST = 50_000
"""Items of one customer that may be online and in no release."""

_log = logging.getLogger("limen.changes")


class LiveItems:
    """One release's gallery under the changes of one log; safe to use from several threads."""

    def __init__(
        self, log: ItemLog, retriever: Retriever, counters: Counters, most: int = MOST
    ) -> None:
        """Nothing is read of ``log`` before the first call.

        ``most``: items of one customer that may be put online beside those of the release.
        """
        self.log = log
        self.most = most
        self.embedder = Embedder(
            lambda: retriever.encoder, lambda: retriever.space, retriever.dimension
        )
        self._retriever = retriever
        self._gallery = retriever.gallery
        self._segments = retriever.gallery.segments()
        self._folded = read_folded(retriever.release.folder)
        self._counters = counters
        self._overlays: dict[str, Overlay] = {}
        self._folding: dict[str, threading.Lock] = {}
        self._ready: dict[str, dict[int, NDArray[np.float32]]] = {}

    @property
    def space(self) -> str:
        """sha256 of the release's model: whose space its embeddings are in."""
        return self._retriever.space

    def latest(self, customer: str) -> Overlay:
        """All changes of ``customer`` acknowledged before this call, perhaps a few later ones.

        ``RefusedError`` 503 where the log cannot be read; the next call tries again.
        """
        try:
            return self._latest(customer)
        except (RecordsError, LogBehindError) as error:
            _log.error("online changes cannot be read: %s", error)
            raise RefusedError(
                503, "changes_unavailable", "online changes cannot be read now", retry_after=2
            ) from None

    def is_still(self, overlay: Overlay, customer: str) -> bool:
        """Whether nothing that ``customer`` sees in ``overlay`` was taken away since."""
        now = self.latest(customer)
        return now.log == overlay.log and now.last_removal <= overlay.number

    def warm(self) -> None:
        """Fold in what all customers changed so far, so that no request waits for it.

        Raises ``RecordsError``, or ``LogBehindError`` where the release holds more than the log.
        """
        for customer in self.log.customers():
            self._latest(customer)
        self._held(self.log.end().log)

    def is_shared(self, item_id: str) -> bool:
        """Whether the release has a shared item of this id: nobody can put one of the same."""
        return self._row(None, item_id) is not None

    def is_in_gallery(self, customer: str, item_id: str) -> bool:
        """Whether the release itself has an own item of ``customer`` of this id."""
        return self._row(customer, item_id) is not None

    def keep_ready(
        self, customer: str, last: int, vectors: Sequence[NDArray[np.float32]]
    ) -> None:
        """Vectors (d,) of the changes up to ``last``, just logged: no need to embed them twice."""
        with self._folding.setdefault(customer, threading.Lock()):
            if self._overlays.get(customer, UNCHANGED).number < last:
                numbers = range(last - len(vectors) + 1, last + 1)
                self._ready.setdefault(customer, {}).update(zip(numbers, vectors, strict=True))

    def _latest(self, customer: str) -> Overlay:
        end = self.log.end_of(customer)
        overlay = self._overlays.get(customer, UNCHANGED)
        if (overlay.log, overlay.number) != (end.log, end.number):
            with self._folding.setdefault(customer, threading.Lock()):
                overlay = self._overlays[customer] = self._caught_up(customer)
        return overlay

    def _row(self, customer: str | None, item_id: str) -> int | None:
        return row_of(self._gallery, self._segments.get(customer), item_id)

    def _caught_up(self, customer: str) -> Overlay:
        """All that the log holds now; begun anew where it is another log or an older copy."""
        overlay, end = self._overlays.get(customer, UNCHANGED), self.log.end_of(customer)
        if overlay.log != end.log or overlay.number > end.number:
            overlay = UNCHANGED
        changes = self.log.since(self._held(end.log), customer, overlay.number)
        rows = self._segments.get(customer)
        ready = self._ready.pop(customer, {})
        return overlay.then(self._embedded(changes, ready), end, self._gallery, rows)

    def _held(self, log: str) -> int:
        """The number up to which the release itself holds the changes of ``log``."""
        if self._folded is None or self._folded.log != log:
            return 0
        end = self.log.end()
        if self._folded.number > end.number:
            raise LogBehindError(
                f"the log ends at change {end.number}, the release holds {self._folded.number}; "
                "restore a newer copy of the database, or reindex without --changes"
            )
        return self._folded.number

    def _embedded(
        self, changes: Iterator[Change], ready: Mapping[int, NDArray[np.float32]]
    ) -> Iterator[Embedded]:
        for change in changes:
            vector = ready.get(change.own_number)
            if vector is None and change.content is not None:
                vector = self._vector(change)
            yield change, vector

    def _vector(self, change: Change) -> NDArray[np.float32] | None:
        """None where the item has to be set aside: what it was before is gone all the same."""
        assert change.content is not None
        try:
            if self.is_shared(change.item_id):
                raise ContentError("this release has a shared item of the same id")
            return self.embedder.embed(change.content)
        except ContentError as error:
            self._counters.add(SET_ASIDE)
            _log.warning("change %d set aside: item %r of %r: %s",
                         change.number, change.item_id, change.customer, error)
            return None
