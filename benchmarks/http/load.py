"""Requests over a fixed number of connections, each sent when the one before it is answered.

Sockets and nothing else, in one thread: it takes 30 microseconds of the processor for a request,
so that a small machine's cores are left to the server. A failed answer is never an answer: it is
counted by its status, apart from the answers and their latencies.
"""

from __future__ import annotations

import itertools
import selectors
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_SILENT_SECONDS = 30.0


class LoadError(RuntimeError):
    """The server said something that is no HTTP answer, or nothing; one line."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a span of requests came to."""

    latencies: tuple[float, ...]
    """Seconds of every request that was answered with 200."""
    failures: Counter[int]
    """How many were answered with any other status."""
    seconds: float
    """From the first request to the last answer."""

    @property
    def per_second(self) -> float:
        """Answers with 200 a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Seconds within which ``share`` percent of the answers came."""
        return float(np.percentile(self.latencies, share))


def drive(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Send ``requests`` in turn, from the first again after the last, for some ``seconds``.

    Each is a whole HTTP/1.1 request, and its answer has a ``Content-Length``. Raises
    ``LoadError`` where a connection ends or stays silent for 30 s.
    """
    turn = itertools.cycle(requests)
    latencies: list[float] = []
    failures: Counter[int] = Counter()
    selector = selectors.DefaultSelector()
    begin = time.perf_counter()
    try:
        for _ in range(connections):
            selector.register(_Connection(port), selectors.EVENT_READ)
        for key in list(selector.get_map().values()):
            _connection(key).send(next(turn))
        while selector.get_map():
            ready = selector.select(_SILENT_SECONDS)
            if not ready:
                raise LoadError(f"no answer within {_SILENT_SECONDS:g} s")
            for key, _ in ready:
                connection = _connection(key)
                status = connection.receive()
                if status is None:
                    continue
                now = time.perf_counter()
                if status == 200:
                    latencies.append(now - connection.sent)
                else:
                    failures[status] += 1
                if now - begin < seconds:
                    connection.send(next(turn))
                else:
                    selector.unregister(connection)
                    connection.close()
    finally:
        for key in list(selector.get_map().values()):
            _connection(key).close()
        selector.close()
    return Load(tuple(latencies), failures, time.perf_counter() - begin)


def answer_of(port: int, request: bytes) -> tuple[int, bytes]:
    """Status and body of one answer."""
    connection = _Connection(port)
    try:
        connection.send(request)
        while (status := connection.receive()) is None:
            pass
        return status, connection.body
    finally:
        connection.close()


def _connection(key: selectors.SelectorKey) -> _Connection:
    assert isinstance(key.fileobj, _Connection)
    return key.fileobj


class _Connection:
    """One at a time: a request out, its answer in."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _SILENT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self.sent = 0.0
        self.body = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, request: bytes) -> None:
        self._received = b""
        self.sent = time.perf_counter()
        self._socket.sendall(request)

    def receive(self) -> int | None:
        """The status once the answer is here whole; waits for more of it only if none is here."""
        part = self._socket.recv(262_144)
        if not part:
            raise LoadError(f"the connection ended amid an answer: {self._received[:80]!r}")
        self._received += part
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return None
        length = next(_lengths(head), None)
        if length is None or not head.startswith(b"HTTP/1.1 "):
            raise LoadError(f"no HTTP answer with a length: {head[:80]!r}")
        if len(body) < length:
            return None
        self.body = body
        return int(head[9:12])


def _lengths(head: bytes) -> Iterator[int]:
    for line in head.lower().split(b"\r\n")[1:]:
        if line.startswith(b"content-length:"):
            yield int(line[15:])
