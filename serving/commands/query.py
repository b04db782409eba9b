"""``limen query``: ask a server which items match, and print them.

One machine: ``limen query --image cat.png --key lim_..``
Cluster:     the same with ``--server https://limen.example.com``
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serving.commands.client import SERVER, ClientError, KeyOption, ServerOption, ask, require_key


def main(
    *,
    image: Annotated[list[Path] | None, typer.Option(help="Image file; may be repeated.")] = None,
    embedding: Annotated[
        Path | None, typer.Option(help=".npy file with one unit row for each query.")
    ] = None,
    key: KeyOption = "",
    server: ServerOption = SERVER,
    limit: Annotated[int, typer.Option(help="Most matches to print for each query.")] = 10,
    exact: Annotated[bool, typer.Option(help="Prove that no match is missing.")] = False,
) -> None:
    """Query with images or embeddings; matches by distance, and the nearest rejected item."""
    queries = [*_images(image or []), *_embeddings(embedding)]
    if not queries:
        raise ClientError("nothing to ask: pass --image FILE or --embedding FILE.npy")
    answer = ask(server, "/v1/query", require_key(key), {
        "queries": queries, "limit": limit, "with": ["metadata"], "exact": exact,
    })
    console = Console()
    threshold = answer["threshold"]
    console.print(f"release {answer['release']}, {threshold['source']} threshold "
                  f"{threshold['value']:.6f}", highlight=False)
    for result in answer["results"]:
        console.print(_table(result))


def _images(paths: list[Path]) -> list[dict[str, str]]:
    return [
        {"id": str(path)[-200:], "image": base64.b64encode(_bytes(path)).decode()}
        for path in paths
    ]


def _embeddings(path: Path | None) -> list[dict[str, str]]:
    if path is None:
        return []
    import numpy as np

    try:
        rows = np.atleast_2d(np.load(path, allow_pickle=False)).astype("<f4")
    except (OSError, ValueError) as error:
        raise ClientError(f"{path}: no NumPy array ({error}); expected (n, d) float32") from None
    return [
        {"id": f"row {i}", "embedding_b64": base64.b64encode(row.tobytes()).decode()}
        for i, row in enumerate(rows)
    ]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ClientError(f"{path}: {error.strerror}; expected an image file") from None


def _table(result: dict[str, Any]) -> Table:
    shown = len(result["matches"])
    proof = "proven" if result["match_recall"] == 1.0 else f"recall {result['match_recall']:.4f}"
    more = f", {shown} shown" if shown < result["match_count"] else ""
    table = Table(
        "item", "distance", "metadata", title_justify="left",
        title=escape(f"{result['id']}: {result['match_count']} matches{more} ({proof})"),
    )
    for match in result["matches"]:
        table.add_row(escape(match["item_id"]), f"{match['distance']:.6f}", _metadata(match))
    rejected = result["nearest_rejected"]
    if rejected:
        table.add_section()
        table.add_row(
            escape(rejected["item_id"]), f"{rejected['distance']:.6f}",
            f"nearest rejected  {_metadata(rejected)}", style="dim",
        )
    return table


def _metadata(found: dict[str, Any]) -> str:
    values = found.get("metadata") or {}
    return escape(", ".join(f"{name}={value}" for name, value in values.items()
                            if value is not None))
