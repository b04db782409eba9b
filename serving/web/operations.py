"""Every operation of the HTTP interface: its scope, its bodies, its refusals, with examples.

What ``serving/access/admission.py`` routes and what this table says must agree; a test compares
them. ``serving/web/openapi.py`` makes the document of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel

from serving.schema import admin as schema_admin
from serving.schema import bodies as schema
from serving.schema import items as schema_items
from serving.schema import state as schema_state
from serving.web import examples

BODY = (
    "invalid_json", "duplicate_field", "unknown_field", "invalid_request", "client_disconnected",
    "body_too_large",
)
"""Refusals of every operation that reads a body."""

WAITED = (
    "invalid_request", "body_too_slow", "body_too_large", "too_many_requests", "rate_limited",
    "unavailable", "busy", "deadline_exceeded", "internal_error",
)
"""Refusals of every operation that works."""

_MOVING = (*BODY, *WAITED, "no_alias", "alias_moved", "alias_not_moved", "release_refused",
           "store_unavailable", "trail_unavailable")


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One method of one path, as the document shows it."""

    method: str
    path: str
    summary: str
    scope: str | None = ""
    """Scope its key needs; empty: any key; None: open to all."""
    body: type[BaseModel] | None = None
    bodies: Mapping[str, object] = field(default_factory=dict)
    """Examples of ``body`` by name; at least one where there is a body."""
    answer: type[BaseModel] | None = None
    answered: object = None
    """An example of the answer."""
    content_type: str = "application/json"
    status: int = 200
    refusals: Sequence[str] = ()
    """Codes of ``serving/web/refusals.py``, but for the key's and the scope's: those follow from
    ``scope``."""
    parameters: Sequence[tuple[str, str, str, str | int]] = ()
    """(name, where, type, example) of each: ``("budget", "query", "integer", 20)``."""


OPERATIONS = (
    Operation(
        method="post", path="/v1/query", scope="query",
        summary="The items within the threshold of each query.",
        body=schema.QueryRequest, bodies=examples.QUERIES,
        answer=schema.QueryAnswer, answered=examples.QUERY_ANSWER,
        refusals=(*BODY, *WAITED, "invalid_cursor", "release_changed", "invalid_query",
                  "changes_unavailable",
                  "records_unavailable", "trail_unavailable"),
    ),
    Operation(
        method="put", path="/v1/items", scope="items",
        summary="Items put, in place of yours with the same ids; answered once they are durable, "
        "all or none, and seen by every later query.",
        body=schema_items.ItemsRequest, bodies=examples.ITEMS,
        answer=schema_items.ItemsAnswer, answered=examples.ITEMS_ANSWER,
        refusals=(*BODY, *WAITED, "shared_item", "too_many_online_items",
                  "idempotency_key_reused", "invalid_item",
                  "changes_unavailable", "records_unavailable"),
        parameters=(("Idempotency-Key", "header", "string", "put-2031-07-04-a1"),),
    ),
    Operation(
        method="delete", path="/v1/items/{item_id}", scope="items",
        summary="An item of yours deleted; answered once no later query gives it.",
        answer=schema_items.DeletedAnswer, answered=examples.DELETED_ANSWER,
        refusals=(*WAITED, "invalid_request", "unknown_item", "idempotency_key_reused",
                  "changes_unavailable", "records_unavailable"),
        parameters=(("item_id", "path", "string", "lamp-7"),
                    ("Idempotency-Key", "header", "string", "delete-lamp-7")),
    ),
    Operation(
        method="get", path="/v1/reviews", scope="verdict",
        summary="Pairs drawn for review, whole query by whole query.",
        answer=schema.ReviewsAnswer, answered=examples.REVIEWS_ANSWER,
        refusals=(*WAITED, "unknown_field", "duplicate_field", "invalid_request",
                  "records_unavailable"),
        parameters=(("budget", "query", "integer", 20),),
    ),
    Operation(
        method="post", path="/v1/verdicts", scope="verdict", status=202,
        summary="Verdicts on pairs; answered once they are durable, all or none.",
        body=schema.VerdictsRequest, bodies=examples.VERDICTS,
        answer=schema.VerdictsAnswer, answered=examples.VERDICTS_ANSWER,
        refusals=(*BODY, *WAITED, "unknown_pair", "verdict_contradicted", "records_unavailable"),
    ),
    Operation(
        method="get", path="/v1/release", summary="What is served: release and threshold.",
        answer=schema_state.ReleaseAnswer, answered=examples.RELEASE_ANSWER, refusals=WAITED,
    ),
    Operation(
        method="get", path="/v1/release/report", scope="observe",
        summary="The calibration report of the release.", content_type="text/html",
        answered="<!doctype html>..", refusals=WAITED,
    ),
    Operation(
        method="get", path="/v1/consistency", scope="observe",
        summary="Drift of every customer, as in the gauges.",
        answer=schema_state.ConsistencyAnswer, answered=examples.CONSISTENCY_ANSWER,
        refusals=(*WAITED, "records_unavailable", "monitor_unavailable"),
    ),
    Operation(
        method="get", path="/v1/customers/{customer}/consistency",
        summary="Drift of the key's own customer.",
        answer=schema_state.OwnConsistencyAnswer, answered=examples.OWN_CONSISTENCY_ANSWER,
        refusals=(*WAITED, "not_found", "records_unavailable", "monitor_unavailable"),
        parameters=(("customer", "path", "string", "acme"),),
    ),
    Operation(
        method="get", path="/metrics", scope="observe", content_type="text/plain",
        summary="The gauges, for Prometheus.", answered=examples.METRICS,
        refusals=(*WAITED, "records_unavailable", "monitor_unavailable"),
    ),
    Operation(
        method="post", path="/v1/admin/promote", scope="admin",
        summary="Let the alias that is served mean a release; answered once every replica serves "
        "it.",
        body=schema_admin.PromoteRequest, bodies=examples.PROMOTE,
        answer=schema_admin.MovedAnswer, answered=examples.MOVED_ANSWER,
        refusals=(*_MOVING, "unknown_release"),
    ),
    Operation(
        method="post", path="/v1/admin/rollback", scope="admin",
        summary="Let the alias that is served mean what it meant before its newest promotion.",
        body=schema_admin.RollbackRequest, bodies=examples.ROLLBACK,
        answer=schema_admin.MovedAnswer, answered=examples.MOVED_ANSWER, refusals=_MOVING,
    ),
    Operation(
        method="get", path="/livez", scope=None, summary="200 while the process runs.",
        answer=schema_state.LiveAnswer, answered={"status": "alive"},
    ),
    Operation(
        method="get", path="/readyz", scope=None, refusals=(*WAITED, "not_ready"),
        summary="200 once the release is loaded and finds one of its own items.",
        answer=schema_state.ReadyAnswer,
        answered={"status": "ready", "release": examples.RELEASE},
    ),
    Operation(
        method="get", path="/openapi.json", scope=None, summary="This document.",
        answered={"openapi": "3.1.0"},
    ),
    Operation(
        method="get", path="/docs", scope=None, content_type="text/html",
        summary="This document as a page.", answered="<!doctype html>..",
    ),
)
