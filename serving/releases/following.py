"""Keeps serving what an alias means: looks at the alias, and takes a release up when it moves.

A release that does not open is refused: what was served before is served on, and the release is
tried again only once the alias has moved. So nothing that is promoted can take a server down.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from serving.counters import Counter, Counters

SWAPS = Counter("limen_swaps", "Releases taken up while a replica ran.")
REFUSED = Counter("limen_swap_refused", "Releases that a replica refused, serving on as before.")

# A release that is not as it should be may raise anything, from the hash of a file to its first
# search; nothing of it may end the thread that follows.
_TROUBLE = Exception
_log = logging.getLogger("limen.swap")


@dataclass(frozen=True, slots=True)
class SwapRefusal:
    """A release that could not be taken up."""

    release: str
    """Its full id."""
    why: str
    """One line."""


class Follower:
    """Follows one alias in a thread of its own; also safe to be asked by others."""

    def __init__(
        self, meaning: Callable[[], str], take_up: Callable[[str], None], *,
        served: str, counters: Counters,
    ) -> None:
        """``meaning``: the full id that the alias means now; ``served``: the one that is served.

        ``take_up``: open the release with this id and serve it, or raise and change nothing.
        """
        self._meaning = meaning
        self._take_up = take_up
        self._counters = counters
        for counter in (SWAPS, REFUSED):
            counters.add(counter, by=0)  # shown from the start
        self._seen = served
        self._served = served
        self._lost = ""
        self.refusal: SwapRefusal | None = None
        """The release that the alias means and that is not served; None if it is."""

    def start(self, seconds: float) -> None:
        """Look every ``seconds`` from now on, as long as the process lives."""
        threading.Thread(
            target=self._run, args=(seconds,), name="limen-follower", daemon=True
        ).start()

    def look(self) -> None:
        """Take up what the alias means, if that is another release than at the last look."""
        try:
            meant = self._meaning()
        except _TROUBLE as error:
            self._say_lost(str(error))
            return
        self._lost = ""
        if meant == self._seen:
            return
        self._seen = meant
        self.refusal = None if meant == self._served else self._taken_up(meant)

    def _taken_up(self, meant: str) -> SwapRefusal | None:
        """None once ``meant`` is served, else why not."""
        try:
            self._take_up(meant)
        except _TROUBLE as error:
            why = " ".join(str(error).split()) or type(error).__name__
            _log.error("release %s refused, %s stays: %s", meant[:12], self._served[:12], why)
            self._counters.add(REFUSED)
            return SwapRefusal(meant, why)
        _log.info("release %s is served, %s was before", meant[:12], self._served[:12])
        self._served = meant
        self._counters.add(SWAPS)
        return None

    def _say_lost(self, why: str) -> None:
        if why != self._lost:  # once, not at every look
            _log.warning("the alias cannot be read, %s stays: %s", self._served[:12], why)
        self._lost = why

    def _run(self, seconds: float) -> None:
        wait = threading.Event()
        while not wait.wait(seconds):
            self.look()
