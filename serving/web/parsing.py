"""From the bytes of a request body to a model of it, or a refusal that names the place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from serving.responses import RefusedError
from serving.schema.bodies import MAX_BODY_BYTES
from serving.web.duplicates import doubled_field

Body = TypeVar("Body", bound=BaseModel)


def parse(kind: type[Body], body: bytes) -> Body:
    """A request body as ``kind``; ``RefusedError`` 413 or 400 that names the place."""
    if len(body) > MAX_BODY_BYTES:
        raise too_large()
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RefusedError(400, "invalid_json", f"body is not JSON: {error}") from None
    twice = doubled_field(content, body)
    if twice is not None:
        raise RefusedError(400, "duplicate_field", f"{twice}: an object has this field twice",
                           details={"field": twice})
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise _invalid(error) from None


def too_large() -> RefusedError:
    """413; also raised by the server before it has read such a body whole."""
    return RefusedError(
        413, "body_too_large", f"body is over {MAX_BODY_BYTES} bytes; send fewer queries",
        details={"max_bytes": MAX_BODY_BYTES},
    )


def _invalid(error: ValidationError) -> RefusedError:
    """The first fault, named by its place; ``details.index`` is the entry it is in."""
    first: Mapping[str, Any] = error.errors(include_url=False, include_context=False)[0]
    place: tuple[int | str, ...] = first["loc"]
    where = ".".join(str(part) for part in place) or "body"
    details: dict[str, object] = {"field": where}
    listed = len(place) >= 2 and place[0] in ("queries", "verdicts", "items")
    if listed and isinstance(place[1], int):
        details["index"] = place[1]
    if first["type"] == "extra_forbidden":
        return RefusedError(400, "unknown_field", f"{where}: unknown field", details=details)
    message = first["msg"].removeprefix("Value error, ")
    message = f"{where}: {message[:1].lower()}{message[1:]}"
    return RefusedError(400, "invalid_request", message, details=details)
