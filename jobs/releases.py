"""``limen releases``: what is in a store, and which release an alias means.

One machine: ``limen releases list``, ``limen releases promote 3f9c1a``
Cluster:     the same with ``--store s3://bucket/releases``
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jobs.command import run_verb
from jobs.workspace import ALIAS, STORE
from pipeline.store import Store

app = typer.Typer(help="List, verify, promote and roll back releases.", add_completion=False)

StoreOption = Annotated[str, typer.Option(help="Folder or URL of the store.")]
AliasOption = Annotated[str, typer.Option(help="The alias to move.")]


@app.command("list")
def list_releases(store: StoreOption = STORE) -> None:
    """Every release with its threshold and the aliases that mean it."""
    shelf = Store(store)
    table = Table("release", "threshold", "rule", "aliases")
    aliases = shelf.aliases()
    for name in shelf.releases():
        release = shelf.open(name)
        facts = release.manifest.facts
        meant = ", ".join(alias for alias, full in aliases.items() if full == release.id)
        table.add_row(release.id12, f"{facts.threshold:.6f}", facts.rule, meant)
    Console().print(table)


@app.command()
def verify(name: Annotated[str, typer.Argument(help="Id, prefix or alias.")],
           store: StoreOption = STORE) -> None:
    """Check every byte of a release against its manifest."""
    release = Store(store).open(name)
    Console().print(f"{release.id12}: intact, {len(release.manifest.files)} files.")


@app.command()
def promote(name: Annotated[str, typer.Argument(help="Id or prefix.")],
            alias: AliasOption = ALIAS, store: StoreOption = STORE) -> None:
    """Let an alias mean a release, from the next start of a server on."""
    Console().print(f"{alias} is now {Store(store).promote(alias, name)[:12]}.")


@app.command()
def rollback(alias: AliasOption = ALIAS, store: StoreOption = STORE) -> None:
    """Let an alias mean what it meant before."""
    Console().print(f"{alias} is now {Store(store).rollback(alias)[:12]}.")


if __name__ == "__main__":
    run_verb(app)
