"""``limen releases``: what is in a store, and which release an alias means.

One machine: ``limen releases list``, ``limen releases promote 3f9c1a --gate items.parquet``
Cluster:     the same with ``--store s3://bucket/releases``
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from jobs.command import run_verb, terminal
from jobs.workspace import ALIAS, STORE
from pipeline.evaluation.gate import GateError, verdict
from pipeline.releases.manifest import ReleaseError
from pipeline.releases.release import ID_LENGTH
from pipeline.releases.signing import SIGNING_KEY, make_key, read_private_key
from pipeline.releases.store import Store

app = typer.Typer(help="List, verify, promote and roll back releases.", add_completion=False)

StoreOption = Annotated[str, typer.Option(help="Folder or URL of the store.")]
AliasOption = Annotated[str, typer.Option(help="The alias to move.")]
GateOption = Annotated[
    Path | None,
    typer.Option(help="Items table on which the release has to keep the limits of its recipe."),
]


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
            alias: AliasOption = ALIAS, store: StoreOption = STORE,
            gate: GateOption = None) -> None:
    """Let an alias mean a release; servers that follow it take the release up while they run."""
    shelf = Store(store)
    compared = None if gate is None else pass_gate(shelf, alias, name, gate)
    terminal().print(f"{alias} is now {shelf.promote(alias, name, expected=compared)[:12]}.")


def pass_gate(shelf: Store, alias: str, name: str, items: Path) -> str:
    """Compare the release ``name`` with what ``alias`` means, on ``items``, by its own limits.

    Returns the full id that it was compared with, empty where the alias means nothing yet.
    Raises ``GateError``, with one line, where it breaks one of them or has none.
    """
    # Listing releases needs neither an encoder nor an index.
    from jobs.compare import compare_releases, recipe_of, show

    release = shelf.open(name)
    config = recipe_of(release).gate
    if config is None:
        raise GateError(
            f"release {release.id12}: its recipe has no section [gate], expected at least one "
            "limit there, such as max_flip_share; or promote it without --gate"
        )
    meant = shelf.aliases().get(alias, "")
    if not meant:
        terminal().print(f"{alias} means no release yet: nothing to compare {release.id12} with.")
        return meant
    if meant == release.id:
        terminal().print(f"{alias} means {release.id12} already: nothing to compare.")
        return meant
    found = compare_releases((shelf.open(meant), release), items, terminal())
    show(found, terminal())
    if broken := verdict(found, config):
        raise GateError(f"{alias} stays {meant[:ID_LENGTH]}: {'; '.join(broken)}")
    kept = ", ".join(f"{limit} {value:g}" for limit, value in config.limits().items())
    terminal().print(f"{release.id12} keeps the limits of its recipe: {kept}.")
    return meant


@app.command()
def keygen(path: Annotated[Path, typer.Argument(help="New file for the private key.")]) -> None:
    """Make a key to sign releases with, and its public half beside it."""
    public = make_key(path)
    terminal().print(f"{path}: the private key; {SIGNING_KEY}={path} signs what is sealed.")
    terminal().print(f"{public}: for servers: limen serve --public-key {public}")


@app.command()
def sign(name: Annotated[str, typer.Argument(help="Id, prefix or alias.")],
         key: Annotated[Path, typer.Option(envvar=SIGNING_KEY, help="The private key.")],
         store: StoreOption = STORE) -> None:
    """Sign a release of the store; a signature that it has is replaced."""
    signed = Store(store).sign(name, read_private_key(key))
    terminal().print(f"{signed[:ID_LENGTH]}: signed with {key}.")


@app.command()
def rollback(alias: AliasOption = ALIAS, store: StoreOption = STORE) -> None:
    """Let an alias mean what it meant before."""
    terminal().print(f"{alias} is now {Store(store).rollback(alias)[:12]}.")


if __name__ == "__main__":
    run_verb(app)
