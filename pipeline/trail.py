"""The trail: who changed or was refused what, a line each, only ever added to.

For what has to be accounted for later: another threshold asked for, a release promoted, a key
made or taken away, a request refused. Each line is JSON with ``time``, ``event`` and what the
event says of itself. Many processes may write to one trail. No secret belongs here; what looks
like a key is struck out before it is written.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pipeline.durable import sync

Fact = str | int | float | bool | None

# The public part of a key stays, so that the line still says whose it was.
_SECRET = re.compile(r"(lim_[^_\s]{0,32}_)[A-Za-z0-9_-]{8,}")


class TrailError(OSError):
    """A line that could not be kept; what it is about must not happen. One line of text."""


class Trail:
    """One file of JSON lines, readable by its owner only; safe from many processes."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Nothing is created before the first line; ``clock``: seconds since the epoch."""
        self.path = path
        self._clock = clock

    def write(self, event: str, **facts: Fact) -> None:
        """Add one line; on disk when this returns.

        Raises ``TrailError`` where it is not, and ``ValueError`` for a fact named like the
        line's own ``time`` or for a number that JSON has not.
        """
        if "time" in facts:
            raise ValueError("time: the trail tells the time itself; name the fact otherwise")
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="microseconds")
        line = json.dumps({"time": now, "event": event, **facts}, allow_nan=False)
        try:
            self._append(without_secrets(line).encode() + b"\n")
        except OSError as error:
            raise TrailError(
                f"{self.path}: cannot add to the trail ({error.strerror or error}); "
                "nothing that has to be in it is done until it can be written"
            ) from error

    def _append(self, line: bytes) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            # A line that a killed writer or a full disk cut short must not spoil this one.
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            whole = b"\n" + line if torn else line
            if os.write(descriptor, whole) != len(whole):
                raise OSError("the disk took only a part of the line")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not size:
            sync(self.path.parent)


def without_secrets(text: str) -> str:
    """``text`` with the secret part of whatever looks like a key struck out."""
    return _SECRET.sub(r"\1***", text)
