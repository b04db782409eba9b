"""Who may ask what, from the head of a request alone: path, method, key, scope.

Nothing is read and nothing computed before a request is admitted. The customer is the key's,
whatever a body says.
"""

from __future__ import annotations

import math
import re
import uuid
from dataclasses import dataclass
from urllib.parse import unquote

from serving.access import Key, KeyRing
from serving.responses import RefusedError

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_OWN_CONSISTENCY = re.compile(r"/v1/customers/([^/]+)/consistency")

OPEN = "open"
ANY_KEY = "any key"
ROUTES = {
    ("POST", "/v1/query"): ("query", "query"),
    ("GET", "/v1/reviews"): ("reviews", "verdict"),
    ("POST", "/v1/verdicts"): ("verdicts", "verdict"),
    ("GET", "/v1/release"): ("release", ANY_KEY),
    ("GET", "/v1/release/report"): ("report", "observe"),
    ("GET", "/v1/consistency"): ("consistency", "observe"),
    ("GET", "/metrics"): ("metrics", "observe"),
    ("GET", "/livez"): ("livez", OPEN),
    ("GET", "/readyz"): ("readyz", OPEN),
    ("GET", "/openapi.json"): ("openapi", OPEN),
    ("GET", "/docs"): ("docs", OPEN),
    ("GET", "/"): ("home", OPEN),
}
"""(method, path) to the operation and the scope that it needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """A request without its body."""

    method: str
    path: str
    """As sent, still percent-encoded, without the query string."""
    query: str = ""
    """What follows the ``?``."""
    authorization: str = ""
    """The header of this name."""
    request_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """An admitted request."""

    operation: str
    head: Head
    key: Key | None
    """None for the open paths."""
    subject: str | None = None
    """The customer in the path, which is the key's own."""
    deadline: float = math.inf
    """On the monotonic clock: nobody waits for the answer any more."""


def request_id(sent: str | None) -> str:
    """The id that a client sent if it is short and printable, else a new one."""
    return sent if sent and _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


class Admission:
    """The door in front of the operations."""

    def __init__(self, keys: KeyRing) -> None:
        """``keys`` of the customers; read again whenever their file changes."""
        self._keys = keys

    def admit(self, head: Head) -> Call:
        """What a request wants, if it may; ``RefusedError`` 401, 403, 404 or 405 if not."""
        method = "GET" if head.method == "HEAD" else head.method
        own = _OWN_CONSISTENCY.fullmatch(head.path)
        operation, scope = ("consistency", ANY_KEY) if own and method == "GET" else _route(
            method, head.path, own is not None
        )
        if scope == OPEN:
            return Call(operation=operation, head=head, key=None)
        key = self._key(head.authorization)
        if own:
            if unquote(own[1]) != key.customer:
                raise RefusedError(404, "not_found", "no such customer for this key")
            return Call(operation=operation, head=head, key=key, subject=key.customer)
        if scope != ANY_KEY:
            require_scope(key, scope)
        return Call(operation=operation, head=head, key=key)

    def _key(self, authorization: str) -> Key:
        scheme, _, token = authorization.partition(" ")
        key = self._keys.find(token.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            what = "unknown key" if authorization else "no key"
            raise RefusedError(401, "unauthenticated", f"{what}; send Authorization: Bearer KEY")
        return key


def _route(method: str, path: str, known: bool) -> tuple[str, str]:
    if (method, path) in ROUTES:
        return ROUTES[method, path]
    allowed = [m for m, p in ROUTES if p == path] or (["GET"] if known else [])
    if not allowed:
        raise RefusedError(404, "not_found", f"no path {path}; see /docs")
    raise RefusedError(405, "method_not_allowed", f"{path} takes {allowed[0]}",
                       details={"allowed": allowed}, headers={"Allow": ", ".join(allowed)})


def require_scope(key: Key, scope: str) -> None:
    """``RefusedError`` 403 where the key lacks ``scope``."""
    if scope not in key.scopes:
        raise RefusedError(403, "forbidden", f"this key lacks the scope {scope!r}",
                      details={"scope": scope})
