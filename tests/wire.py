"""Hostile requests to a running server, each over a socket of its own, byte by byte."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from serving.access.keys import SCOPES, add_key
from tests.asgi_world import Told
from tests.hostile_requests import Hostile, Judge, hostile_requests
from tests.served import Server

HANGING = 40
"""Seconds after which a request that is still unanswered is held, not worked on."""

_NO_HTTP = (400, b"<html><body><h1>400 Bad request</h1>\nYour browser sent an invalid request.\n"
                 b"</body></html>\n")
"""What HAProxy says to bytes that it takes for no request."""
_CUSTOMER = "stranger"
"""Owns nothing: every item but the shared ones is another's."""


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


def play(server: Server, seed: int, count: int) -> tuple[Counter[int], int]:
    """Send ``count`` requests and judge the answers: by status, and what HAProxy took for no HTTP.
    """
    world = server.world
    key = add_key(server.folder / "keys.json", _CUSTOMER, SCOPES)
    row = world.vectors[0].tolist()
    first = server.client.post(
        "/v1/query", json={"queries": [{"embedding": row}], "limit": 1},
        headers={"Authorization": f"Bearer {key}"},
    ).json()
    requests = list(hostile_requests(
        seed, count, key=key, row=row, cursor=first["results"][0]["next_cursor"],
        image=world.items.content[3],
    ))
    judge, no_http = Judge(world, _CUSTOMER, [key, server.key]), 0
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(partial(send, ("127.0.0.1", server.port)), requests)
        for request, told in zip(requests, answers, strict=True):
            if (told.status, told.body) == _NO_HTTP:
                no_http += 1
            else:
                judge.judge(request, told)
    return judge.statuses, no_http
