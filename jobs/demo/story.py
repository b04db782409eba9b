"""``make demo``: train, calibrate, serve and watch a release on real images, in plain sentences.

One machine: ``python -m jobs.demo --exit``
"""

from __future__ import annotations

import base64
import json
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from jobs.demo import server as serving
from jobs.demo import show
from jobs.demo.client import Client
from jobs.demo.traffic import Traffic
from jobs.prepare import prepare
from jobs.run import run
from jobs.workspace import ALIAS, STORE
from pipeline.config import Recipe, load_recipe
from pipeline.data.items import load_items
from pipeline.releases.release import Release

RECIPE = Path("jobs/recipes/emoji.toml")
FOLDER = Path("demo")
DRIFTED = "Objects"
BEFORE, DURING = 40, 120
"""Most queries of a customer before the drift, and during it."""


def main(
    recipe: Annotated[Path, typer.Option(help="The recipe to demonstrate.")] = RECIPE,
    port: Annotated[int, typer.Option(help="Port of the server.")] = 8000,
    stop: Annotated[bool, typer.Option("--exit", help="Stop the server at the end.")] = False,
) -> None:
    """Train, calibrate, serve and watch a release on real images."""
    # Off a terminal there is no width to keep to, and the tables read better unwrapped.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    started = time.monotonic()
    FOLDER.mkdir(exist_ok=True)
    serving.stop(FOLDER)
    serving.require_free(port)
    for old in ("records.db", "records.db-wal", "records.db-shm", "keys.json"):
        (FOLDER / old).unlink(missing_ok=True)
    resolved = load_recipe(recipe)
    show.title(console, "1. From images to a sealed release (as `limen run` does it)")
    release = run(resolved, STORE, ALIAS, console)
    show.calibration(release, console)
    show.title(console, "2. Serving it (as `limen serve` does it)")
    traffic, observer, server = _serve(resolved, port, console)
    try:
        _watch(traffic, observer, console)
        _say_where(release, server, traffic, console)
    except BaseException:
        serving.stop(FOLDER)
        raise
    console.print(f"\nAll of this took {time.monotonic() - started:.0f} s.")
    if stop:
        serving.stop(FOLDER)
        console.print("The server is stopped.")


def _serve(recipe: Recipe, port: int, console: Console) -> tuple[Traffic, Client, serving.Server]:
    """Keys for every customer and an observer, then the server."""
    items = load_items(prepare(recipe, Console(quiet=True)).items_path)
    customers = sorted(set(items.customer.tolist()))
    keys, url = FOLDER / "keys.json", f"http://127.0.0.1:{port}"
    clients = {
        customer: Client(url, serving.add_key(keys, customer, "query", "verdict"))
        for customer in track(customers, "Adding keys", console=console)
    }
    observer = Client(url, serving.add_key(keys, "operations", "observe"))
    with console.status("Starting Ray Serve"):
        server = serving.start(FOLDER, STORE, ALIAS, port)
    console.print(f"Serving at {server.url}; its log is {server.log}.")
    return Traffic(items, clients), observer, server


def _watch(traffic: Traffic, observer: Client, console: Console) -> None:
    """Queries, then usual traffic, then the drift of one customer; gauges after each."""
    show.title(console, "3. A few real queries")
    show.queries(traffic, console)
    show.title(console, "4. Usual traffic, its drawn pairs reviewed with their true labels")
    _send(traffic, console, drifted=None)
    (FOLDER / "before.prom").write_text(observer.metrics())
    show.gauges(observer, traffic.clients, console)
    show.title(console, f"5. {DRIFTED} drifts: its queries switch to a style held out of training")
    _send(traffic, console, drifted=DRIFTED)
    (FOLDER / "after.prom").write_text(observer.metrics())
    alerts = show.gauges(observer, traffic.clients, console)
    fired = [customer for customer, fires in alerts.items() if fires]
    console.print(
        f"The alert's condition holds for {', '.join(fired) or 'nobody'}"
        f"{' and for nobody else' if fired == [DRIFTED] else ''}."
    )


def _send(traffic: Traffic, console: Console, drifted: str | None) -> None:
    """Queries of every customer, then a verdict on every pair that was drawn from them."""
    reviewed = 0
    for customer in track(traffic.clients, "Asking and reviewing", console=console):
        # Every image asks once: two halves of the usual ones, before and during the drift.
        usual = np.random.default_rng(0).permutation(traffic.usual(customer))
        first, second = np.array_split(usual, 2)
        if customer == drifted:
            second = np.random.default_rng(0).permutation(traffic.held_out(customer))
        traffic.ask(customer, first[:BEFORE] if drifted is None else second[:DURING])
        reviewed += traffic.review(customer)
    console.print(f"{reviewed:,} pairs reviewed.")


def _say_where(
    release: Release, server: serving.Server, traffic: Traffic, console: Console
) -> None:
    """The release, the report, the server, a query that works, and how to stop."""
    customer = next(iter(traffic.clients))
    image = traffic.items.content[traffic.usual(customer)[0]]
    body = {"queries": [{"image": base64.b64encode(image).decode()}], "limit": 3}
    (FOLDER / "query.json").write_text(json.dumps(body))
    show.title(console, "6. Where everything is")
    console.print(f"Release: {release.folder}")
    console.print(f"Report:  {release.folder / 'report.html'}")
    console.print(f"Server:  {server.url} (documentation at {server.url}/docs)")
    console.print("Ask it yourself, as one of its customers:")
    key = traffic.clients[customer].key
    console.print(
        f"  curl -s {server.url}/v1/query -H 'Authorization: Bearer {key}' "
        f"-d @{FOLDER / 'query.json'}",
        soft_wrap=True,
    )
    console.print(f"Stop it: kill {server.pid}")
