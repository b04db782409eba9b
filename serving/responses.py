"""What the HTTP side answers: a status with a body, or a refusal that says what to do.

Every error has the same shape, ``{"error": {"code", "message", "details"}, "request_id"}``, and
``code`` is what a client may branch on. Nothing here knows a web framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from serving.access.key_file import Key

JSON = "application/json"
HTML = "text/html; charset=utf-8"
REQUEST_ID = "X-Request-Id"
_LONGEST = 500  # characters
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Response:
    """A status, a body, and the headers that go with it."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


class RefusedError(Exception):
    """A request that is not answered; becomes ``schema.ErrorAnswer``."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Mapping[str, object] | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """``message`` is one line with the remedy; ``details`` are for a client's code."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.headers = dict(headers or {})
        self.details = dict(details or {})
        self.key: Key | None = None
        """Whose request it was, where that was known before it was refused."""

    def response(self, request_id: str) -> Response:
        """The error body with its headers."""
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status in (408, 413):
            headers["Connection"] = "close"  # or the rest of the body would be read and dropped
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="limen"'
        details = {name: _line(fact) if isinstance(fact, str) else fact
                   for name, fact in self.details.items()}
        body = {
            "error": {"code": self.code, "message": _line(self.message), "details": details},
            "request_id": request_id,
        }
        return Response(self.status, orjson.dumps(body, default=str), JSON, headers)


def _line(message: str) -> str:
    """One printable line: a message may quote what a client made up."""
    short = message if len(message) <= _LONGEST else message[:_LONGEST] + " .."
    return "".join(letter if letter.isprintable() else "?" for letter in short)


def json_response(body: Mapping[str, object], status: int = 200) -> Response:
    """``body`` as JSON; metadata of types that JSON has not is written as text."""
    return Response(status, orjson.dumps(body, default=str))
