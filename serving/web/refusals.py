"""Every code of an error, with the status it comes with, when, and an example.

A client branches on the code, so each is declared once, here; the OpenAPI document shows them,
and gRPC maps their statuses. ``RefusedError`` is raised where the fault is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Refusal:
    """What one code means."""

    status: int
    """Of HTTP."""
    when: str
    """What was wrong, in a few words."""
    message: str
    """As a client might read it."""
    details: Mapping[str, object] = field(default_factory=dict)
    """As in that example."""


_QUERY = {"field": "embedding", "index": 1}

REFUSALS = {
    "invalid_json": Refusal(
        400, "the body is not JSON; NaN and Infinity are not", "body is not JSON: unexpected end"
    ),
    "duplicate_field": Refusal(
        400, "an object has a field twice", "limit: an object has this field twice",
        {"field": "limit"},
    ),
    "unknown_field": Refusal(
        400, "a field or parameter that does not exist", "customer: unknown field",
        {"field": "customer"},
    ),
    "invalid_request": Refusal(
        400, "a value of another type or out of its range",
        "limit: input should be greater than or equal to 1", {"field": "limit"},
    ),
    "invalid_cursor": Refusal(
        400, "no cursor, or one of another query or customer",
        "not a cursor; send `next_cursor` of an earlier answer unchanged",
    ),
    "client_disconnected": Refusal(
        400, "the client left before its body", "the client left before its body"
    ),
    "unauthenticated": Refusal(
        401, "no key, or one that is not known", "no key; send Authorization: Bearer KEY"
    ),
    "key_expired": Refusal(
        401, "the key is past its end",
        "key 5f0c2a91 expired at 2026-03-01 00:00:00 UTC; use a newer one",
    ),
    "forbidden": Refusal(
        403, "the key lacks the scope", "this key lacks the scope 'query'", {"scope": "query"}
    ),
    "not_found": Refusal(
        404, "no such path or customer, as far as this key sees",
        "no such customer for this key",
    ),
    "unknown_pair": Refusal(
        404, "no such query, item or draw, as far as this key sees",
        "verdict 0: query '5b1f' is not recorded; expected a query_id of an answer with "
        '"recorded": true', {"index": 0},
    ),
    "unknown_release": Refusal(
        404, "no such release in the store",
        "store: no alias or release '3f9c'; aliases: production; releases: b7d43f9c1a20",
    ),
    "unknown_item": Refusal(
        404, "no item of this id that is the customer's own",
        "no item of this id that is this customer's own",
    ),
    "method_not_allowed": Refusal(
        405, "another method than the path takes", "/v1/query takes POST", {"allowed": ["POST"]}
    ),
    "body_too_slow": Refusal(
        408, "the body did not come in time", "the body took over 10 s"
    ),
    "release_changed": Refusal(
        409, "a cursor of an earlier release",
        "cursor of release 3f9c1a20b7d4, now serving b7d43f9c1a20; ask again without a cursor",
    ),
    "verdict_contradicted": Refusal(
        409, "a verdict against an earlier one",
        "verdict 0: draw 'd81c0a' already has the verdict is_match = True; the first verdict "
        "stays", {"index": 0},
    ),
    "no_alias": Refusal(
        409, "the server serves one release for good",
        "this server serves one release for good; start it on an alias, such as `limen serve "
        "production`, to move it",
    ),
    "alias_moved": Refusal(
        409, "someone else moved the alias meanwhile",
        "store: production was moved by someone else: it means b7d43f9c1a20, no longer "
        "3f9c1a20b7d4; look again before it is moved",
    ),
    "alias_not_moved": Refusal(
        409, "the alias cannot be moved so",
        "alias 'production': nothing to roll back to; 3f9c1a20b7d4 was its first",
    ),
    "release_refused": Refusal(
        409, "the release is broken, or a replica cannot take it up: it serves on as before",
        "1 of 2 replicas refused 3f9c1a20b7d4, production means b7d43f9c1a20 as before: release "
        "3f9c1a20b7d4 needs 9,120 MiB of memory beside what runs, 4,096 MiB are available",
    ),
    "shared_item": Refusal(
        409, "a shared item has this id",
        "items.0.item_id: a shared item has this id, which customers cannot change; choose "
        "another id", {"index": 0},
    ),
    "too_many_online_items": Refusal(
        409, "more items of this customer online than the server allows, until it reindexes",
        "50000 items put online are in no release yet, and 1 more would pass the 50000 that this "
        "server allows a customer; it folds them into its next release with `limen reindex ALIAS "
        "ITEMS --changes URL`, then send these again", {"there": 50000, "most": 50000},
    ),
    "idempotency_key_reused": Refusal(
        409, "the Idempotency-Key came before with another request",
        "idempotency key 'a1' came before with another request; use a new key for each request, "
        "and send that request unchanged to repeat it",
    ),
    "body_too_large": Refusal(
        413, "the body is too large", "body is over 16777216 bytes; send fewer queries",
        {"max_bytes": 16777216},
    ),
    "invalid_query": Refusal(
        422, "undecodable, not finite, zero, of another dimension or kind",
        "queries.1.embedding: 127 coordinates; expected 128", _QUERY,
    ),
    "invalid_item": Refusal(
        422, "undecodable, not finite, zero, of another dimension or kind, or an id given twice",
        "items.1.image: undecodable image (3 bytes, UnidentifiedImageError)",
        {"index": 1, "field": "image"},
    ),
    "too_many_requests": Refusal(
        429, "this customer has too much waiting; see Retry-After",
        "48 requests of this customer are waiting; try again",
    ),
    "rate_limited": Refusal(
        429, "this customer asked more than its limit; see Retry-After",
        "over 50 queries a second (100 at once); try again in 0.4 s", {"retry_after_ms": 400},
    ),
    "internal_error": Refusal(
        500, "a fault of the server", "a fault of the server; its log has the details"
    ),
    "unavailable": Refusal(
        503, "no replica answers at the moment; see Retry-After",
        "no replica answers at the moment; try again",
    ),
    "busy": Refusal(
        503, "too much is waiting; see Retry-After", "too many requests are waiting; try again"
    ),
    "records_unavailable": Refusal(
        503, "the records do not answer; see Retry-After", "the records do not answer now"
    ),
    "monitor_unavailable": Refusal(
        503, "the monitor is starting again; see Retry-After", "the monitor is starting again"
    ),
    "changes_unavailable": Refusal(
        503, "online changes cannot be read, which may hide a deletion; see Retry-After",
        "online changes cannot be read now",
    ),
    "trail_unavailable": Refusal(
        503, "what must be audited cannot be; see Retry-After",
        "what must be audited cannot be now",
    ),
    "store_unavailable": Refusal(
        503, "the store cannot be read or written; see Retry-After",
        "the store: permission denied",
    ),
    "not_ready": Refusal(
        503, "the release does not find its own item", "the release does not find its own item"
    ),
    "deadline_exceeded": Refusal(504, "no answer in time", "no answer in 30 s"),
}
"""By code; a code has one status."""
