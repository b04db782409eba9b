"""How the verbs reach a server: where it is, with which key."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.client import Client

ServerOption = Annotated[str, typer.Option(help="Where the server is.")]
KeyOption = Annotated[str, typer.Option(
    help="A key of `limen keys add`; as LIMEN_KEY no list of processes shows it.",
    envvar="LIMEN_KEY", show_default=False,
)]

SERVER = "http://127.0.0.1:8000"

_SECONDS = 20.0  # a person waits, and a server that restarts is often back within that


class ClientError(RuntimeError):
    """Nothing was asked; the message is one line with the remedy."""


def connect(server: str, key: str) -> Client:
    """A client with this ``key``; ``ClientError`` where there is none, or no server."""
    if not key:
        raise ClientError(
            "no key: pass --key or set LIMEN_KEY; make one with `limen keys add CUSTOMER`"
        )
    try:
        return Client(server, key=key, seconds=_SECONDS)
    except ValueError as error:
        raise ClientError(str(error)) from None
