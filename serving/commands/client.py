"""How the verbs ask a server: one request, one answer, one clear line when there is none."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Annotated, Any

import typer

ServerOption = Annotated[str, typer.Option(help="Where the server is.")]
KeyOption = Annotated[str, typer.Option(
    help="A key of `limen keys add`.", envvar="LIMEN_KEY", show_default=False,
)]

SERVER = "http://127.0.0.1:8000"

_TIMEOUT_SECONDS = 60.0


class ClientError(RuntimeError):
    """The server refused, or did not answer; the message is one line."""


def ask(
    server: str, path: str, key: str, body: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """The JSON answer of ``GET path``, or with a ``body`` of ``POST path``."""
    if not server.startswith(("http://", "https://")):
        raise ClientError(f"{server}: expected a URL such as {SERVER}")
    request = urllib.request.Request(
        server.rstrip("/") + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            content: dict[str, Any] = json.load(answer)
            return content
    except urllib.error.HTTPError as error:
        raise ClientError(f"{server}{path}: {error.code} {_reason(error.read())}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ClientError(f"{server}: no answer ({reason}); is `limen serve` running?") from None


def require_key(key: str) -> str:
    """The key; ``ClientError`` where none was given."""
    if not key:
        raise ClientError(
            "no key: pass --key or set LIMEN_KEY; make one with `limen keys add CUSTOMER`"
        )
    return key


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return os.fsdecode(body[:200]).strip()
