"""``limen keys``: who may ask a server, and what.

One machine: ``limen keys add "Food & Drink" --scope query --scope verdict``
Cluster:     the same, then the file as a Secret: ``kubectl create secret generic limen-keys
             --from-file=keys.json``
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from serving.access import SCOPES, add_key, read_keys, remove_key

app = typer.Typer(help="Add, list and remove the customers' keys.", add_completion=False)

KeysOption = Annotated[Path, typer.Option(help="The keys file.")]
ScopeOption = Annotated[
    list[str] | None,
    typer.Option(help=f"One of {', '.join(SCOPES)}; repeatable.", show_default="query"),
]

_KEYS = Path("keys.json")


@app.command()
def add(
    customer: Annotated[str, typer.Argument(help="The customer that the key speaks for.")],
    scope: ScopeOption = None,
    keys: KeysOption = _KEYS,
) -> None:
    """Add a key and print it, this once; a running server takes it at once."""
    scopes = scope or ["query"]
    token = add_key(keys, customer, scopes)
    Console(stderr=True, soft_wrap=True).print(
        f"Key of {customer!r} ({', '.join(scopes)}), kept in {keys} as a hash alone: "
        "write it down now.", markup=False, highlight=False,
    )
    typer.echo(token)


@app.command("list")
def list_keys(keys: KeysOption = _KEYS) -> None:
    """Every key's id, customer and scopes; never the key."""
    table = Table("id", "customer", "scopes")
    for key in read_keys(keys):
        table.add_row(key.id, key.customer, ", ".join(key.scopes))
    Console().print(table)


@app.command()
def remove(
    key_id: Annotated[str, typer.Argument(help="Id, the part between the underscores.")],
    keys: KeysOption = _KEYS,
) -> None:
    """Take a key away; a running server refuses it at once."""
    gone = remove_key(keys, key_id)
    Console().print(f"Removed {gone.id} of {gone.customer!r}.", markup=False, highlight=False)
