"""What ``limen evaluate`` measures: embeddings from a file, or a release that embeds the items."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from jobs.compare import find_release
from jobs.index import label_hash
from pipeline.data.embeddings import SUFFIXES, EmbeddingsError, read_embeddings
from pipeline.data.items import Items
from pipeline.data.labels import Labels
from pipeline.data.readers import read_items
from pipeline.encoding.encoder import Encoder
from pipeline.encoding.inputs import PART, embed_items, require_inputs


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """One embedding of the items."""

    name: str
    """File or release, as people know it."""
    digest: str
    """sha256 of the file, or the id of the release."""
    items: Items
    """All items, their content being unit vectors."""
    threshold: np.float32 | None
    """Of a release."""
    release: str | None
    """Id of the release."""
    scaled: int
    """Rows that were scaled to unit length."""
    trained: frozenset[int]
    """Hashes of the labels that the release's model was trained on."""

    @property
    def dimension(self) -> int:
        """Coordinates of an embedding."""
        return int(self.items.content.shape[1])

    def knows(self, labels: NDArray[np.object_]) -> NDArray[np.bool_]:
        """(n,) whether the model was trained on each label."""
        if not self.trained:
            return np.zeros(len(labels), np.bool_)
        known = {name: label_hash(name) in self.trained for name in set(labels.tolist()) - {None}}
        return np.fromiter((known.get(name, False) for name in labels), np.bool_, len(labels))


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a subject's items and embeddings are looked for."""

    table: Path
    labels: Labels
    store: str
    column: str | None


def load_subject(name: str, sources: Sources, console: Console) -> Subject:
    """The embeddings in the file ``name``, or those of the release that it means.

    Raises ``EmbeddingsError``, ``ItemsError``, ``ReleaseError`` or ``StoreError``, one line each.
    """
    path = Path(name)
    if path.suffix.lower() in SUFFIXES:
        return _from_file(path, sources)
    if path.is_file():
        raise EmbeddingsError(
            f"{path}: unknown format; expected embeddings as {' or '.join(SUFFIXES)}, or a release"
        )
    return _from_release(name, sources, console)


def _from_file(path: Path, sources: Sources) -> Subject:
    found = read_embeddings(path, sources.labels, sources.column)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    items = sources.labels.with_vectors(found.vectors)
    return Subject(path.stem, digest, items, None, None, found.scaled, frozenset())


def _from_release(name: str, sources: Sources, console: Console) -> Subject:
    release = find_release(name, sources.store)
    items, source = read_items(sources.table), str(sources.table)
    encoder = Encoder(release.folder / "model.onnx", threads=os.cpu_count() or 1)
    require_inputs(encoder, items, source, f"the encoder of release {release.id12}")
    parts = track(
        embed_items([encoder], items, source), f"Embedding {len(items):,} items",
        total=-(-len(items) // PART), console=console, transient=True,
    )  # fmt: skip
    vectors = np.concatenate([part[0] for part in parts])
    kept = release.folder / "trained.npy"
    trained = np.load(kept, allow_pickle=False).tolist() if kept.exists() else []
    embedded = dataclasses.replace(items, kind="vector", content=vectors, metadata=pa.table({}))
    return Subject(
        f"release {release.id12}", release.id, embedded, release.threshold, release.id, 0,
        frozenset(trained),
    )  # fmt: skip
