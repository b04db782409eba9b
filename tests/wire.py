"""A request over a socket of its own, byte by byte, and the one answer that comes back."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Iterable

from tests.asgi_world import Told
from tests.hostile_requests import Hostile

HANGING = 40
"""Seconds after which a request that is still unanswered is held, not worked on."""


class UnansweredError(Exception):
    """The connection ended without an answer."""


def written(request: Hostile, host: bytes) -> bytes:
    """The request as bytes; ``Host`` and ``Content-Length`` where it does not bring its own."""
    names = {name.lower() for name, _ in request.headers}
    lines = [request.method.encode() + b" " + request.path
             + (b"?" + request.query if request.query else b"") + b" HTTP/1.1"]
    if b"host" not in names:
        lines.append(b"Host: " + host)
    if b"content-length" not in names:
        lines.append(b"Content-Length: %d" % len(request.body))
    lines += [name + b": " + value for name, value in request.headers]
    return b"\r\n".join([*lines, b"Connection: close", b"", request.body])


def send(address: tuple[str, int], request: Hostile) -> Told:
    """What a server at ``address`` answers; the connection stays open for writing until then.

    ``UnansweredError`` where it hangs up without a word, ``TimeoutError`` where it never does.
    """
    host = f"{address[0]}:{address[1]}".encode()
    with socket.create_connection(address, timeout=HANGING) as connection:
        # Refused before all was read: the answer is there.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(written(request, host))
        answer = http.client.HTTPResponse(connection, method=request.method)
        try:
            answer.begin()
            body = answer.read()
        except (http.client.HTTPException, ConnectionResetError) as error:
            raise UnansweredError(repr(error)) from None
        return Told(answer.status, _joined(answer.getheaders()), body)


def _joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers}
