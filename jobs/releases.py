"""``limen releases``: what is in a store, and which release an alias means.

One machine: ``limen releases list``, ``limen releases promote 3f9c1a``
Cluster:     the same with ``--store s3://bucket/releases``
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from jobs.command import run_verb, terminal
from jobs.workspace import ALIAS, STORE
from pipeline.manifest import ReleaseError
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
    broken = []
    for name in shelf.releases():
        meant = ", ".join(alias for alias, full in aliases.items() if full.startswith(name))
        try:
            facts = shelf.open(name).manifest.facts
            table.add_row(name, f"{facts.threshold:.6f}", facts.rule, meant)
        except ReleaseError as error:
            broken.append(str(error))
            table.add_row(name, "broken", "", meant)
    terminal().print(table)
    if broken:
        raise ReleaseError("; ".join(broken))


@app.command()
def verify(name: Annotated[str, typer.Argument(help="Id, prefix or alias.")],
           store: StoreOption = STORE) -> None:
    """Check every byte of a release against its manifest."""
    release = Store(store).open(name)
    terminal().print(f"{release.id12}: intact, {len(release.manifest.files)} files.")


@app.command()
def promote(name: Annotated[str, typer.Argument(help="Id or prefix.")],
            alias: AliasOption = ALIAS, store: StoreOption = STORE) -> None:
    """Let an alias mean a release, from the next start of a server on."""
    terminal().print(f"{alias} is now {Store(store).promote(alias, name)[:12]}.")


@app.command()
def rollback(alias: AliasOption = ALIAS, store: StoreOption = STORE) -> None:
    """Let an alias mean what it meant before."""
    terminal().print(f"{alias} is now {Store(store).rollback(alias)[:12]}.")


if __name__ == "__main__":
    run_verb(app)
