"""Who may ask what, from the head of a request alone: path, method, key, scope.

Nothing is read and nothing computed before a request is admitted. The customer is the key's,
whatever a body says.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from serving.access.key_file import Key
from serving.access.keys import KeyExpiredError, KeyRing
from serving.responses import RefusedError

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_OWN_CONSISTENCY = re.compile(r"/v1/customers/([^/]+)/consistency")
ITEMS = "/v1/items"
_ITEM = re.compile(rf"{ITEMS}/[^/]+")

OPEN = "open"
ANY_KEY = "any key"
ROUTES = {
    ("POST", "/v1/query"): ("query", "query"),
    ("PUT", ITEMS): ("put_items", "items"),
    ("DELETE", f"{ITEMS}/{{item_id}}"): ("delete_item", "items"),
    ("GET", "/v1/reviews"): ("reviews", "verdict"),
    ("POST", "/v1/verdicts"): ("verdicts", "verdict"),
    ("GET", "/v1/release"): ("release", ANY_KEY),
    ("GET", "/v1/release/report"): ("report", "observe"),
    ("GET", "/v1/consistency"): ("consistency", "observe"),
    ("GET", "/metrics"): ("metrics", "observe"),
    ("POST", "/v1/admin/promote"): ("promote", "admin"),
    ("POST", "/v1/admin/rollback"): ("rollback", "admin"),
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
    timeout_ms: str = ""
    """The header ``X-Limen-Timeout-Ms``: how long the client waits."""
    content_length: int = 0
    """Bytes of the body as announced; 0 where they are not."""
    idempotency_key: str = ""
    """The header of this name: the client's name for a request that it may send again."""
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
    spend: Callable[[int], None] = lambda queries: None
    """To be told how many queries the body has; ``RefusedError`` 429 if they are too many."""


def request_id(sent: str | None) -> str:
    """The id that a client sent if it is short and printable, else a new one."""
    return sent if sent and _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


def announced_length(sent: str | None) -> int:
    """Bytes of the body by its header ``Content-Length``; 0 where that says nothing."""
    return int(sent) if sent and re.fullmatch(r"[0-9]{1,18}", sent) else 0


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
        try:
            if own and unquote(own[1]) != key.customer:
                raise RefusedError(404, "not_found", "no such customer for this key")
            if scope != ANY_KEY:
                require_scope(key, scope)
        except RefusedError as refusal:
            refusal.key = key
            raise
        return Call(operation=operation, head=head, key=key,
                    subject=key.customer if own else None)

    def _key(self, authorization: str) -> Key:
        scheme, _, token = authorization.partition(" ")
        try:
            key = self._keys.find(token.strip()) if scheme.lower() == "bearer" else None
        except KeyExpiredError as error:
            refusal = RefusedError(401, "key_expired", str(error))
            refusal.key = error.key
            raise refusal from None
        if key is None:
            what = "unknown key" if authorization else "no key"
            raise RefusedError(401, "unauthenticated", f"{what}; send Authorization: Bearer KEY")
        return key


def _route(method: str, path: str, known: bool) -> tuple[str, str]:
    if _ITEM.fullmatch(path):
        path = f"{ITEMS}/{{item_id}}"
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
