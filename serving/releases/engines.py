"""The engine that answers now, and its replacement by another one while requests go on."""

from __future__ import annotations

from serving.releases.engine import Engine


class Engines:
    """Holds the current engine; safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        """``engine`` answers until it is replaced."""
        self._engine = engine

    def current(self) -> Engine:
        """The engine of this moment: taken once by a request, and kept to its end."""
        return self._engine

    def replace(self, engine: Engine) -> None:
        """Let ``engine`` answer every request that comes from now on.

        The one before is freed when the last request that took it has ended.
        """
        self._engine = engine  # one assignment: a request sees the one or the other
