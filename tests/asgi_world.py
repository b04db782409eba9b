"""The served interface as an ASGI application, without Ray: its own way in and out of Starlette.

Requests are sent to it as a server would hand them over, byte by byte, so that nothing between a
test and the application mends what is hostile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request

from serving import app
from serving.web.front import Front


@dataclass(frozen=True)
class Told:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def application(front: Front):
    """An ASGI application of one replica."""

    async def answer(scope, receive, send):
        if scope["type"] != "http":
            return
        request = Request(scope, receive)

        async def body():
            return await app._body_of(request)

        response = app._to_starlette(await front.handle(app._head_of(request), body))
        await response(scope, receive, send)

    return answer


def send(application, method, path, *, query=b"", headers=(), body=b"", part=2**16) -> Told:
    """One request; ``path`` and ``query`` are bytes as on the wire, ``body`` comes in parts."""
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "scheme": "http",
        "path": path.decode("latin-1"), "raw_path": path, "query_string": query,
        "headers": list(headers), "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        "root_path": "", "asgi": {"version": "3.0"},
    }
    parts = [body[start : start + part] for start in range(0, len(body), part)] or [b""]
    sent = []

    async def receive():
        if parts:
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
        return {"type": "http.disconnect"}

    async def keep(message):
        sent.append(message)

    asyncio.run(application(scope, receive, keep))
    start, *rest = sent
    return Told(
        start["status"], {n.decode("latin-1"): v.decode("latin-1") for n, v in start["headers"]},
        b"".join(message.get("body", b"") for message in rest),
    )
