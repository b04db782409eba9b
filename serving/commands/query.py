"""``limen query``: ask a server which items match, and print them.

One machine: ``limen query --image cat.png --key lim_..``
Cluster:     the same with ``--server https://limen.example.com``
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from serving.client import Match, Query, Result
from serving.commands.client import SERVER, ClientError, KeyOption, ServerOption, connect
from serving.commands.pictures import escape_of, protocol_of, sheet
from serving.commands.terminal import plain

_SHOWN = (".png", ".jpg", ".jpeg", ".webp")


def main(
    *,
    image: Annotated[list[Path] | None, typer.Option(help="Image file; may be repeated.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text; may be repeated.")] = None,
    vector: Annotated[
        Path | None, typer.Option(help=".npy file with one row of encoder input for each query.")
    ] = None,
    embedding: Annotated[
        Path | None, typer.Option(help=".npy file with one unit row for each query.")
    ] = None,
    key: KeyOption = "",
    server: ServerOption = SERVER,
    limit: Annotated[int, typer.Option(help="Most matches to print for each query.")] = 10,
    exact: Annotated[bool, typer.Option(help="Prove that no match is missing.")] = False,
) -> None:
    """Query with images, texts, vectors or embeddings; matches, and the nearest rejected item."""
    queries = [
        *(Query(id=str(path)[-200:], image=_bytes(path)) for path in image or []),
        *(Query(id=words[:200], text=words) for words in text or []),
        *(Query(id=f"row {i}", vector=row) for i, row in _rows(vector)),
        *(Query(id=f"row {i}", embedding=row) for i, row in _rows(embedding)),
    ]
    if not queries:
        raise ClientError("nothing to ask: pass --image FILE, --text TEXT, --vector FILE.npy or "
                          "--embedding FILE.npy")
    with connect(server, key) as limen:
        answer = limen.query(queries, limit=limit, metadata=True, exact=exact)
    console = Console()
    console.print(f"release {answer.release}, {answer.threshold.source} threshold "
                  f"{answer.threshold.value:.6f}", highlight=False)
    protocol = protocol_of(os.environ, to_terminal=console.is_terminal)
    for query, result in zip(queries, answer.results, strict=True):
        if protocol and (pictures := sheet(list(_images(query, result)))) is not None:
            typer.echo(escape_of(pictures, protocol))
        console.print(_table(result))


def _images(query: Query, result: Result) -> Iterator[bytes]:
    """The image asked with, and of each match those files here that its metadata names."""
    if isinstance(query.image, bytes):
        yield query.image
    for match in result.matches:
        for value in match.metadata.values():
            path = Path(value) if isinstance(value, str) else Path()
            if path.suffix.lower() in _SHOWN and path.is_file():
                yield path.read_bytes()


def _rows(path: Path | None) -> Iterator[tuple[int, NDArray[np.float32]]]:
    if path is None:
        return
    try:
        rows = np.atleast_2d(np.load(path, allow_pickle=False)).astype(np.float32)
    except (OSError, ValueError) as error:
        raise ClientError(f"{path}: no NumPy array ({error}); expected (n, d) float32") from None
    yield from enumerate(rows)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ClientError(f"{path}: {error.strerror}; expected an image file") from None


def _table(result: Result) -> Table:
    shown = len(result.matches)
    proof = "proven" if result.match_recall == 1.0 else f"recall {result.match_recall:.4f}"
    more = f", {shown} shown" if shown < result.match_count else ""
    table = Table(
        "item", "distance", "metadata", title_justify="left",
        title=plain(f"{result.id}: {result.match_count} matches{more} ({proof})"),
    )
    for match in result.matches:
        table.add_row(plain(match.item_id), f"{match.distance:.6f}", _metadata(match))
    rejected = result.nearest_rejected
    if rejected:
        table.add_section()
        table.add_row(
            plain(rejected.item_id), f"{rejected.distance:.6f}",
            f"nearest rejected  {_metadata(rejected)}", style="dim",
        )
    return table


def _metadata(found: Match) -> str:
    return plain(", ".join(f"{name}={value}" for name, value in found.metadata.items()
                            if value is not None))
