"""One JSON text for one content, so that it can be hashed; and a reader as strict."""

from __future__ import annotations

import json
from collections.abc import Mapping


def canonical_json(document: Mapping[str, object]) -> bytes:
    """Sorted keys, two spaces, UTF-8, a final newline; ``ValueError`` for what JSON has not."""
    try:
        text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot be written as JSON: {error}") from None


def parse_object(data: bytes) -> dict[str, object]:
    """The JSON object in ``data``; ``ValueError`` where it is none, or holds NaN or infinity."""

    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is no JSON")

    try:
        document = json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON, or cut short: {error}") from None
    if not isinstance(document, dict):
        raise ValueError("expected a JSON object")
    return document
