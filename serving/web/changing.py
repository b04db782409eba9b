"""Items put and deleted over HTTP: checked and embedded first, durable before the answer.

One bad item refuses the request, and nothing is written before all can be embedded: what is
acknowledged can be shown. A request with an ``Idempotency-Key`` can be sent again: it gets the
same answer, and nothing happens twice.

Every replica holds the items that are in no release yet in memory, looks at all of them in each
search of their customer, and embeds them anew at its start. So there is a cap on those of one
customer. Whoever reached it can still replace and delete; what other replicas accept at the same
moment may go past it, by a request each.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from pipeline.item_log.changes import Accepted, Content, KeyReusedError, NewItem, RequestKey
from pipeline.item_log.content import ContentError
from pipeline.item_log.overlay import Overlay
from serving.access.admission import ITEMS, Call
from serving.answers.live_items import LiveItems
from serving.answers.queries import MAX_TEXT
from serving.responses import RefusedError, Response, json_response
from serving.schema.bodies import CONTENTS
from serving.schema.items import Item, ItemsRequest
from serving.web.parsing import parse

_KEY = re.compile(r"[\x21-\x7e]{1,200}")


def put_items(live: LiveItems, customer: str, call: Call, body: bytes, at: float) -> Response:
    """``PUT /v1/items``; ``at``: seconds since the epoch.

    ``RefusedError`` 400, 409 or 422 naming the item, 503 or 504; ``RecordsError`` where the log
    cannot be written.
    """
    request = parse(ItemsRequest, body)
    call.spend(len(request.items))
    repeatable = _request_key(call, body)
    try:
        accepted = None if repeatable is None else live.log.answered(customer, repeatable, at)
        if accepted is None:
            overlay = live.latest(customer)  # refuses what could be kept and not be shown
            _require_room(overlay, request.items, live.most)
            items, vectors = _embedded(request.items, live, call.deadline)
            accepted = live.log.put(customer, items, at, repeatable)
            live.keep_ready(customer, accepted.own_number, vectors)
    except KeyReusedError as error:
        raise _reused(error) from None
    return _answer(call, accepted, {"accepted": accepted.items})


def delete_item(live: LiveItems, customer: str, call: Call, at: float) -> Response:
    """``DELETE /v1/items/{item_id}``; 404 for what is no item of ``customer``."""
    live.latest(customer)
    try:
        item_id = unquote_to_bytes(call.head.path.removeprefix(f"{ITEMS}/")).decode()
        # No item's id has a null character, and PostgreSQL would not even look for one.
        accepted = None if "\0" in item_id else live.log.delete(
            customer, item_id, at, in_gallery=live.is_in_gallery(customer, item_id),
            request=_request_key(call, b""),
        )
    except UnicodeDecodeError:
        accepted = None
    except KeyReusedError as error:
        raise _reused(error) from None
    if accepted is None:
        raise RefusedError(404, "unknown_item", "no item of this id that is this customer's own")
    return _answer(call, accepted, {})


def _answer(call: Call, accepted: Accepted, facts: Mapping[str, object]) -> Response:
    return json_response({
        **facts, "change": accepted.own_number, "request_id": call.head.request_id,
    })


def _request_key(call: Call, body: bytes) -> RequestKey | None:
    key = call.head.idempotency_key
    if not key:
        return None
    if not _KEY.fullmatch(key):
        raise RefusedError(
            400, "invalid_request", "Idempotency-Key: expected 1 to 200 printable ASCII "
            "characters without spaces", details={"field": "Idempotency-Key"},
        )
    asked = f"{call.head.method} {call.head.path}\n".encode() + body
    return RequestKey(key, hashlib.sha256(asked).hexdigest())


def _reused(error: KeyReusedError) -> RefusedError:
    return RefusedError(409, "idempotency_key_reused", str(error))


def _require_room(overlay: Overlay, items: Sequence[Item], most: int) -> None:
    """``RefusedError`` 409 where the customer's items online would become more than ``most``."""
    there = int(overlay.places.size)
    new = sum(not overlay.adds(item.item_id) for item in items)
    if new and there + new > most:
        raise RefusedError(
            409, "too_many_online_items", f"{there} items put online are in no release yet, and "
            f"{new} more would pass the {most} that this server allows a customer; it folds them "
            "into its next release with `limen reindex ALIAS ITEMS --changes URL`, then send "
            "these again", details={"there": there, "most": most},
        )


def _embedded(
    items: Sequence[Item], live: LiveItems, deadline: float
) -> tuple[list[NewItem], list[NDArray[np.float32]]]:
    """The items as they are logged, and their vectors; ``RefusedError`` names the first bad one."""
    places: dict[str, int] = {}
    new, vectors = [], []
    for index, item in enumerate(items):
        if time.monotonic() > deadline:
            raise RefusedError(504, "deadline_exceeded", "too many large items for one request",
                               retry_after=1)
        if item.item_id in places:
            first = places[item.item_id]
            raise _invalid(index, "item_id", f"the same as of items.{first}; expected each once")
        places[item.item_id] = index
        if live.is_shared(item.item_id):
            raise RefusedError(
                409, "shared_item", f"items.{index}.item_id: a shared item has this id, which "
                "customers cannot change; choose another id", details={"index": index},
            )
        field = next(name for name in CONTENTS if getattr(item, name) is not None)
        try:
            content = _content(item, field, live.space)
            vectors.append(live.embedder.embed(content))
        except ContentError as error:
            raise _invalid(index, field, str(error)) from None
        new.append(NewItem(item_id=item.item_id, content=content, label=item.label,
                           metadata=item.metadata))
    return new, vectors


def _content(item: Item, field: str, space: str) -> Content:
    """What is logged of an item; ``ContentError`` where it cannot be read."""
    given = getattr(item, field)
    if field == "text":
        if len(given) > MAX_TEXT:
            raise ContentError(f"{len(given)} characters; expected at most {MAX_TEXT}")
        return Content(kind="text", data=given.encode())
    if field in ("image", "embedding_b64"):
        try:
            data = base64.b64decode(given, validate=True)
        except (binascii.Error, ValueError):
            raise ContentError("not base64") from None
    else:
        with np.errstate(over="ignore"):  # past float32's range becomes inf, and is refused
            data = np.asarray(given, np.float64).astype("<f4").tobytes()
    if field in ("image", "vector"):
        return Content(kind=field, data=data)
    return Content(kind="embedding", data=data, encoder=space)


def _invalid(index: int, field: str, message: str) -> RefusedError:
    return RefusedError(422, "invalid_item", f"items.{index}.{field}: {message}",
                        details={"index": index, "field": field})
