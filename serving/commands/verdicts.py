"""``limen verdicts``: pairs to review, and what a reviewer says of them.

One machine: ``limen verdicts list --budget 20 --key lim_..``, then
             ``limen verdicts send --file verdicts.json --key lim_..``
Cluster:     the same with ``--server https://limen.example.com``
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from serving.client import Verdict
from serving.commands.client import SERVER, ClientError, KeyOption, ServerOption, connect
from serving.commands.terminal import plain

app = typer.Typer(help="Reviews to do, verdicts to send.", add_completion=False)


@app.command("list")
def list_reviews(
    budget: Annotated[int, typer.Option(help="Most pairs to list.")] = 20,
    key: KeyOption = "",
    server: ServerOption = SERVER,
    as_json: Annotated[bool, typer.Option("--json", help="As a file for `send`.")] = False,
) -> None:
    """Pairs drawn for review, whole query by whole query."""
    with connect(server, key) as limen:
        reviews = limen.reviews(budget)
    if as_json:
        verdicts = [
            {"query_id": r.query_id, "item_id": r.item_id, "draw_id": r.draw_id,
             "is_match": None}
            for r in reviews
        ]
        typer.echo(json.dumps({"verdicts": verdicts}, indent=1))
        return
    names = ("draw", "query", "item")  # folded: an id that is cut short names nothing
    table = Table(*(Column(name, overflow="fold") for name in names), "distance")
    for review in reviews:
        table.add_row(review.draw_id, review.query_id, plain(review.item_id),
                      f"{review.distance:.6f}")
    Console().print(table)


@app.command()
def send(
    file: Annotated[Path, typer.Option(help="JSON: {\"verdicts\": [..]}, as `list --json`.")],
    key: KeyOption = "",
    server: ServerOption = SERVER,
) -> None:
    """Send the verdicts of a file; they are durable when this returns."""
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ClientError(f"{file}: not a JSON file: {error}") from None
    try:
        verdicts = [Verdict(**entry) for entry in body["verdicts"]]
    except (TypeError, KeyError) as error:
        raise ClientError(f"{file}: {error}; expected the form of `list --json`") from None
    with connect(server, key) as limen:
        kept = limen.verdicts(verdicts)
    Console().print(f"{kept.accepted} verdicts kept, {kept.repeated} were there already.")
