"""The HTTP interface without HTTP: who may ask what, and what the answer is.

``admit`` looks at the head of a request alone, ``answer`` does the work; both raise
``RefusedError``. No web framework and no event loop is known here; ``serving/web/front.py`` has the
one, ``serving/app.py`` the other.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import parse_qsl

from pipeline.live.decisions import (
    ContradictoryVerdictError,
    UnknownPairError,
    Verdict,
)
from pipeline.live.records import Records
from pipeline.trail import Trail
from serving.access.admission import Admission, Call, Head, require_scope
from serving.access.key_file import Key
from serving.access.keys import KeyRing
from serving.counters import Counter, Counters
from serving.releases.engines import Engines
from serving.releases.shadow import Shadow
from serving.responses import HTML, RefusedError, Response, json_response
from serving.schema.bodies import MAX_BUDGET, QueryRequest, VerdictsRequest
from serving.web.changing import delete_item, put_items
from serving.web.docs_page import docs_page
from serving.web.openapi import openapi_document
from serving.web.parsing import parse

QUERIES = Counter("limen_queries", "Queries answered.", ("customer",))


class Api:
    """The operations over the release that is served, the records and the customers' keys."""

    def __init__(
        self, engines: Engines, records: Records, keys: KeyRing, trail: Trail, *,
        counters: Counters, shadow: Shadow | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Each request takes one of ``engines``; ``clock`` gives seconds since the epoch.

        What has to be audited is in ``trail`` before it is answered. ``shadow`` is offered what
        was answered.
        """
        self._counters = counters
        self._shadow = shadow
        self._engines = engines
        self._records = records
        self._trail = trail
        self._admission = Admission(keys)
        self._clock = clock
        document = openapi_document()
        self._openapi = json_response(document)
        self._docs = Response(200, docs_page(document).encode(), HTML)
        self._operations: dict[str, Callable[[Call, bytes], Response]] = {
            "put_items": self._put_items, "delete_item": self._delete_item,
            "query": self._query, "reviews": self._reviews, "verdicts": self._verdicts,
            "release": self._describe, "report": self._report, "readyz": self._readyz,
            "livez": lambda call, body: json_response({"status": "alive"}),
            "openapi": lambda call, body: self._openapi,
            "docs": lambda call, body: self._docs,
            "home": lambda call, body: Response(307, b"", HTML, {"Location": "/docs"}),
        }

    def admit(self, head: Head) -> Call:
        """What a request wants, if it may; ``RefusedError`` 401, 403, 404 or 405 if not."""
        return self._admission.admit(head)

    def answer(self, call: Call, body: bytes) -> Response:
        """Do it; ``RefusedError`` for what is wrong with the body.

        ``RecordsUnavailableError`` where the database does not answer.
        """
        return self._operations[call.operation](call, body)

    def _query(self, call: Call, body: bytes) -> Response:
        request = parse(QueryRequest, body)
        key = _key_of(call)
        if request.threshold is not None:
            require_scope(key, "threshold:override")
        call.spend(len(request.queries))
        engine = self._engines.current()
        if request.threshold is not None:
            self._trail.write(
                "override", request_id=call.head.request_id, key_id=key.id, customer=key.customer,
                release=engine.release.id12, threshold=request.threshold,
            )
        answer = engine.answering.answer(request, key, call.head.request_id, call.deadline)
        self._counters.add(QUERIES, key.customer, by=len(request.queries))
        if self._shadow is not None:
            self._shadow.offer(engine, key.customer, request)
        return json_response(answer)

    def _put_items(self, call: Call, body: bytes) -> Response:
        live = self._engines.current().live
        return put_items(live, _key_of(call).customer, call, body, self._clock())

    def _delete_item(self, call: Call, body: bytes) -> Response:
        live = self._engines.current().live
        return delete_item(live, _key_of(call).customer, call, self._clock())

    def _reviews(self, call: Call, body: bytes) -> Response:
        budget = _budget(call.head.query)
        release = self._engines.current().release.id12
        reviews = self._records.reviews(budget, _key_of(call).customer, release)
        entries = [
            {"draw_id": r.draw_id, "query_id": r.query_id, "item_id": r.item_id,
             "distance": r.distance}
            for r in reviews
        ]
        return json_response({
            "reviews": entries, "release": release, "request_id": call.head.request_id,
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
        engine = self._engines.current()
        facts = engine.release.manifest.facts
        return json_response({
            "release": engine.release.id12,
            "dimension": facts.dimension,
            "kind": engine.kind,
            "threshold": {"value": float(facts.threshold), "source": "calibrated",
                          "rule": "distance <= threshold"},
            "calibration": {"rule": facts.rule, "range": list(facts.calibration_range),
                            "guarantee": facts.guarantee},
            "request_id": call.head.request_id,
        })

    def _report(self, call: Call, body: bytes) -> Response:
        path: Path = self._engines.current().release.folder / "report.html"
        return Response(200, path.read_bytes(), HTML)

    def _readyz(self, call: Call, body: bytes) -> Response:
        engine = self._engines.current()
        if not engine.answering.is_ready():
            raise RefusedError(
                503, "not_ready", "the release does not find its own item", retry_after=5
            )
        return json_response({"status": "ready", "release": engine.release.id12})


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
