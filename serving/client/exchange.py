"""One request and its response, between a ``Call`` and httpx."""

from __future__ import annotations

import re
from typing import TypeVar

import httpx
import orjson

from serving.client.calls import Call
from serving.client.errors import UnexpectedAnswerError, UnreachableError, answer_error

Kind = TypeVar("Kind")


def base_url(server: str) -> str:
    """``server`` as httpx takes it; ``ValueError`` where it is no URL."""
    if not server.startswith(("http://", "https://")):
        raise ValueError(f"{server}: expected a URL such as http://127.0.0.1:8000")
    return server.rstrip("/")


def authorization(key: str) -> dict[str, str]:
    """The header that carries ``key``, where there is one.

    ``ValueError`` where it is no key, without it: httpx would quote it, and try again.
    """
    key = key.strip()  # as read from a file, with its line end
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise ValueError("key: expected what `limen keys add` printed, without spaces")
    return {"Authorization": f"Bearer {key}"} if key else {}


def request_of(call: Call[Kind], client: httpx.Client | httpx.AsyncClient, left: float
               ) -> httpx.Request:
    """The request of ``call``; the server is told how long it has."""
    headers = {**call.headers, "X-Limen-Timeout-Ms": str(max(1, int(left * 1000)))}
    content = None
    if call.body is not None:
        content = orjson.dumps(call.body)
        headers["Content-Type"] = "application/json"
    return client.build_request(call.method, call.path, content=content, headers=headers,
                                timeout=left)


def answer_of(call: Call[Kind], response: httpx.Response, body: bytes) -> Kind:
    """What the response means; ``AnswerError`` or ``UnexpectedAnswerError``."""
    if not response.is_success:
        raise answer_error(response.status_code, response.headers, body)
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UnexpectedAnswerError(f"{response.url}: not JSON: {error}") from None
    return call.read(content)


def unreachable(client: httpx.Client | httpx.AsyncClient, error: httpx.TransportError
                ) -> UnreachableError:
    """The failure of a connection, in one line."""
    reason = str(error) or type(error).__name__
    return UnreachableError(
        f"{client.base_url}: no answer ({reason}); is `limen serve` running there?"
    )
