"""The HTTP interface without HTTP: who may ask what, and what the answer is.

``admit`` looks at the head of a request alone: path, method, key, scope. ``answer`` does the
work. Both raise ``RefusedError``. The customer is the key's, whatever a body says. No web framework
and no event loop is known here; ``serving/front.py`` has the one, ``serving/app.py`` the other.
"""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from pipeline.decisions import (
    ContradictoryVerdictError,
    UnknownPairError,
    Verdict,
)
from pipeline.records import Records
from pipeline.release import Release
from serving.access import Key, KeyRing
from serving.answering import Answering
from serving.docs_page import docs_page
from serving.openapi import openapi_document
from serving.responses import HTML, RefusedError, Response, json_response
from serving.schema import MAX_BUDGET, QueryRequest, VerdictsRequest, parse

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


class Api:
    """The operations over one release, its records and the keys of its customers."""

    def __init__(
        self, release: Release, answering: Answering, records: Records, keys: KeyRing,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``release`` is what ``answering`` serves; ``clock`` gives seconds since the epoch."""
        self._release = release
        self._answering = answering
        self._records = records
        self._keys = keys
        self._clock = clock
        document = openapi_document()
        self._openapi = json_response(document)
        self._docs = Response(200, docs_page(document).encode(), HTML)
        self._operations: dict[str, Callable[[Call, bytes], Response]] = {
            "query": self._query, "reviews": self._reviews, "verdicts": self._verdicts,
            "release": self._describe, "report": self._report, "readyz": self._readyz,
            "livez": lambda call, body: json_response({"status": "alive"}),
            "openapi": lambda call, body: self._openapi,
            "docs": lambda call, body: self._docs,
            "home": lambda call, body: Response(307, b"", HTML, {"Location": "/docs"}),
        }

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
            _require_scope(key, scope)
        return Call(operation=operation, head=head, key=key)

    def answer(self, call: Call, body: bytes) -> Response:
        """Do it; ``RefusedError`` for what is wrong with the body.

        ``RecordsUnavailableError`` where the database does not answer.
        """
        return self._operations[call.operation](call, body)

    def _key(self, authorization: str) -> Key:
        scheme, _, token = authorization.partition(" ")
        key = self._keys.find(token.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            what = "unknown key" if authorization else "no key"
            raise RefusedError(401, "unauthenticated", f"{what}; send Authorization: Bearer KEY")
        return key

    def _query(self, call: Call, body: bytes) -> Response:
        request = parse(QueryRequest, body)
        key = _key_of(call)
        if request.threshold is not None:
            _require_scope(key, "threshold:override")
        answer = self._answering.answer(request, key, call.head.request_id, call.deadline)
        return json_response(answer)

    def _reviews(self, call: Call, body: bytes) -> Response:
        budget = _budget(call.head.query)
        reviews = self._records.reviews(budget, _key_of(call).customer, self._release.id12)
        entries = [
            {"draw_id": r.draw_id, "query_id": r.query_id, "item_id": r.item_id,
             "distance": r.distance}
            for r in reviews
        ]
        return json_response({
            "reviews": entries, "release": self._release.id12, "request_id": call.head.request_id,
        })

    def _verdicts(self, call: Call, body: bytes) -> Response:
        request = parse(VerdictsRequest, body)
        verdicts = [
            Verdict(query_id=v.query_id, item_id=v.item_id, is_match=v.is_match, draw_id=v.draw_id)
            for v in request.verdicts
        ]
        try:
            new = self._records.add_verdicts(verdicts, _key_of(call).customer, self._clock())
        except UnknownPairError as error:
            raise RefusedError(
                404, "unknown_pair", str(error), details={"index": error.index}
            ) from None
        except ContradictoryVerdictError as error:
            raise RefusedError(
                409, "verdict_contradicted", str(error), details={"index": error.index}
            ) from None
        answer = {"accepted": new, "repeated": len(verdicts) - new,
                  "request_id": call.head.request_id}
        return json_response(answer, 202)

    def _describe(self, call: Call, body: bytes) -> Response:
        facts = self._release.manifest.facts
        return json_response({
            "release": self._release.id12,
            "dimension": facts.dimension,
            "kind": self._answering.kind,
            "threshold": {"value": float(facts.threshold), "source": "calibrated",
                          "rule": "distance <= threshold"},
            "calibration": {"rule": facts.rule, "range": list(facts.calibration_range),
                            "guarantee": facts.guarantee},
            "request_id": call.head.request_id,
        })

    def _report(self, call: Call, body: bytes) -> Response:
        path: Path = self._release.folder / "report.html"
        return Response(200, path.read_bytes(), HTML)

    def _readyz(self, call: Call, body: bytes) -> Response:
        if not self._answering.is_ready():
            raise RefusedError(
                503, "not_ready", "the release does not find its own item", retry_after=5
            )
        return json_response({"status": "ready", "release": self._release.id12})


def _route(method: str, path: str, known: bool) -> tuple[str, str]:
    if (method, path) in ROUTES:
        return ROUTES[method, path]
    allowed = [m for m, p in ROUTES if p == path] or (["GET"] if known else [])
    if not allowed:
        raise RefusedError(404, "not_found", f"no path {path}; see /docs")
    raise RefusedError(405, "method_not_allowed", f"{path} takes {allowed[0]}",
                       details={"allowed": allowed}, headers={"Allow": ", ".join(allowed)})


def _require_scope(key: Key, scope: str) -> None:
    if scope not in key.scopes:
        raise RefusedError(403, "forbidden", f"this key lacks the scope {scope!r}",
                      details={"scope": scope})


def _key_of(call: Call) -> Key:
    if call.key is None:
        raise RefusedError(401, "unauthenticated", "no key; send Authorization: Bearer KEY")
    return call.key


def _budget(query: str) -> int:
    pairs = parse_qsl(query, keep_blank_values=True)
    given: Mapping[str, str] = dict(pairs)
    unknown = [name for name in given if name != "budget"]
    if unknown:
        raise RefusedError(400, "unknown_field", f"{unknown[0]}: unknown parameter",
                      details={"field": unknown[0]})
    if len(pairs) != len(given):
        raise RefusedError(400, "duplicate_field", "budget: given twice",
                           details={"field": "budget"})
    value = given.get("budget", "20")
    if not re.fullmatch(r"[0-9]{1,6}", value) or not 1 <= int(value) <= MAX_BUDGET:
        raise RefusedError(400, "invalid_request", f"budget: expected 1 to {MAX_BUDGET}",
                      details={"field": "budget"})
    return int(value)
