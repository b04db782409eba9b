"""Refusals in the trail: every one is counted, none can fill the disk or hold a request up.

A refusal is noted in memory. A thread of its own writes the first one at once and then, every
``INTERVAL_SECONDS``, one line for all equal ones since: same code, key and operation. Past
``KINDS`` different kinds the rest is one line by code. What is noted and not yet written is lost
with a process that is killed, not with one that ends in order. So no request waits for a disk
because others were refused.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from pipeline.trail import Trail, TrailError
from serving.access.key_file import Key
from serving.counters import Counter, Counters
from serving.responses import RefusedError

REFUSED = Counter("limen_refused", "Requests refused, by the code of the answer.", ("code",))
INTERVAL_SECONDS = 10.0
KINDS = 20

_log = logging.getLogger("limen.access")


@dataclass(frozen=True, slots=True)
class _Kind:
    status: int
    code: str
    operation: str | None
    customer: str | None
    key_id: str | None


class RefusalTrail:
    """Counts and tells what one replica refused; safe to use from several threads."""

    def __init__(self, trail: Trail, counters: Counters) -> None:
        """Lines go to ``trail``, numbers to ``counters``."""
        self._trail = trail
        self._counters = counters
        self._lock = threading.Lock()
        self._noted: dict[_Kind, tuple[int, str]] = {}  # how many, and the first one's request id
        self._some = threading.Event()
        threading.Thread(target=self._run, name="limen-refusals", daemon=True).start()

    def note(
        self, refusal: RefusedError, key: Key | None, operation: str | None, request_id: str
    ) -> None:
        """One more refused request; costs a few microseconds, whatever the disk does.

        ``key`` and ``operation`` are None where it was refused before they were known.
        """
        self._counters.add(REFUSED, refusal.code)
        customer, key_id = (key.customer, key.id) if key else (None, None)
        kind = _Kind(refusal.status, refusal.code, operation, customer, key_id)
        with self._lock:
            if kind not in self._noted and len(self._noted) >= KINDS:
                kind = _Kind(refusal.status, refusal.code, None, None, None)
            count, first = self._noted.get(kind, (0, request_id))
            self._noted[kind] = count + 1, first
        self._some.set()

    def write(self) -> None:
        """Write what was noted since the last time; what cannot be written is logged."""
        with self._lock:
            noted, self._noted = self._noted, {}
        try:
            for kind, (count, first) in noted.items():
                self._trail.write(
                    "refused", status=kind.status, code=kind.code, operation=kind.operation,
                    customer=kind.customer, key_id=kind.key_id, count=count, request_id=first,
                )
        except TrailError as error:
            total = sum(count for count, _ in noted.values())
            _log.warning("up to %d refusals are not in the trail: %s", total, error)

    def _run(self) -> None:
        pause = threading.Event()
        while self._some.wait():
            self._some.clear()
            self.write()
            pause.wait(INTERVAL_SECONDS)
