"""Answers under the release's one threshold, from a release that was verified.

A plain class, usable without any server::

    retriever = Retriever(open_release(folder))
    answer, = retriever.answer("acme", embeddings)

Which items match is decided by all visible items, whatever the limit; the limit caps only the
matches that are returned, and the rest is paged through. The same query gives the same answer,
bit by bit, alone and in any batch. The encoder is opened when the first item is embedded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline import distance
from pipeline.distance import Distances, Vectors
from pipeline.gallery import NORM_TOLERANCE, open_gallery
from pipeline.index import open_index
from pipeline.release import Release
from pipeline.search import Found

if TYPE_CHECKING:  # onnxruntime is not needed where queries come as embeddings
    from pipeline.encoder import Encoder

Position = tuple[np.float32, str]
"""(distance, item_id) of a match: where the next page starts, after it."""


class QueryError(ValueError):
    """A query that cannot be searched; ``index`` is its place among the queries."""

    def __init__(self, index: int, message: str) -> None:
        """``message`` says what was expected."""
        super().__init__(f"query {index}: {message}")
        self.index = index


@dataclass(frozen=True, slots=True)
class Match:
    """An item at its deciding distance."""

    item_id: str
    distance: np.float32
    row: int
    """Gallery row, for ``Retriever.metadata``."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one query is answered."""

    query_index: int
    matches: tuple[Match, ...]
    """By (distance, item_id); at most ``limit``, those after ``after``."""
    match_count: int
    """All matches, whatever ``limit`` and ``after``."""
    complete: bool
    """Whether nothing cut the count short."""
    match_recall: float
    """1.0 where no match can be missing, else the measured share that such a search finds."""
    nearest_rejected: Match | None
    """The nearest item that is no match; None if all visible items match."""
    next_after: Position | None
    """Where the next page starts; None if this is the last."""


class Retriever:
    """A release, opened for search."""

    def __init__(self, release: Release, *, threads: int = 1) -> None:
        """``release``: from ``open_release``, so that no unverified byte is parsed here.

        Raises ``GalleryError`` or ``SearchIndexError`` where its files do not fit together.
        """
        self.release = release
        self.threshold = release.threshold
        self.dimension = release.dimension
        self.gallery = open_gallery(release.folder)
        self.index = open_index(release.folder, self.gallery, threads=threads)
        self._threads = threads

    def answer(
        self,
        customer: str | None,
        embeddings: Vectors,
        *,
        limit: int = 10,
        threshold: np.float32 | None = None,
        exact: bool = False,
        after: Position | None = None,
    ) -> list[Answer]:
        """An answer for each of the ``embeddings`` (n, d), unit rows, asked by ``customer``.

        ``threshold``: instead of the release's. ``exact``: prove that no match is missing.
        ``after``: continue behind this match; one query only. Raises ``QueryError`` for a row
        that is no unit vector of the release's space, ``ValueError`` for other arguments.
        """
        queries = self._checked(embeddings)
        applied = np.float32(self.threshold if threshold is None else threshold)
        if not 0 <= applied <= distance.MAX_DISTANCE:
            raise ValueError(f"threshold: {applied} is no cosine distance in [0, 2]")
        if limit < 1:
            raise ValueError(f"limit: expected at least 1, got {limit}")
        if after is not None and len(queries) != 1:
            raise ValueError(f"after: expected one query to continue, got {len(queries)}")
        found = self.index.search_batch(customer, queries, applied, exact=exact)
        return [self._answer(i, one, limit, after) for i, one in enumerate(found)]

    def visible_distances(
        self, customer: str | None, embedding: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], Distances]:
        """All gallery rows (m,) that ``customer`` sees, and their deciding distances (m,)."""
        query = self._checked(embedding[None, :])
        rows = [np.empty(0, np.int64)]
        distances = [np.empty(0, np.float32)]
        for segment in self.gallery.visible(customer):
            rows.append(np.arange(segment.start, segment.stop))
            distances.append(distance.deciding(query, self.gallery.vectors[segment])[0])
        return np.concatenate(rows), np.concatenate(distances)

    def embed_images(self, images: Sequence[bytes]) -> Vectors:
        """(n, d) embeddings of encoded images.

        Raises ``ImageError`` for undecodable bytes, ``EncoderError`` if the release takes none.
        """
        pixels = [self.decode_image(image) for image in images]
        side = self.encoder.image_size or 0
        return self.embed_pixels(
            np.stack(pixels) if pixels else np.empty((0, side, side, 3), np.uint8)
        )

    def decode_image(self, image: bytes) -> NDArray[np.uint8]:
        """The pixels that the encoder takes; raises as ``embed_images`` does."""
        return self.encoder.decode(image)

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> Vectors:
        """(n, d) embeddings of what ``decode_image`` gave, stacked."""
        return self.encoder.embed(pixels)

    def embed_vectors(self, vectors: NDArray[np.float32]) -> Vectors:
        """(n, d) embeddings of input vectors (n, d_in); ``EncoderError`` if it takes none."""
        return self.encoder.embed(np.asarray(vectors, np.float32))

    @cached_property
    def encoder(self) -> Encoder:
        """The release's encoder, opened at first use."""
        from pipeline.encoder import Encoder

        return Encoder(self.release.folder / "model.onnx", threads=self._threads)

    @property
    def kind(self) -> str:
        """What the encoder takes: ``image``, ``vector`` or ``text``."""
        return self.encoder.kind

    @property
    def input_dimension(self) -> int:
        """Coordinates of an input vector; 0 where the encoder takes none."""
        return self.encoder.input_dimension or 0

    def item_id(self, row: int) -> str:
        """The id of a gallery row's item."""
        return str(self.gallery.item_id[row])

    def metadata(self, row: int) -> dict[str, object]:
        """The further columns of a gallery row's item; empty where there are none."""
        table = self.gallery.metadata
        return {name: table[name][row].as_py() for name in table.column_names}

    def passes_self_query(self) -> bool:
        """Whether the first item of the largest segment finds itself, by the path that serves.

        True for an empty gallery. The first call also compiles what the search is made of.
        """
        segments = self.gallery.segments()
        if not segments:
            return True
        customer = max(segments, key=lambda name: segments[name].stop - segments[name].start)
        row = segments[customer].start
        vector = self.gallery.vectors[row : row + 1]
        own = distance.deciding(vector, vector)[0, 0]
        answer, = self.answer(customer, vector, limit=len(self.gallery), threshold=own)
        return Match(self.item_id(row), own, row) in answer.matches

    def _checked(self, embeddings: Vectors) -> Vectors:
        """The embeddings as they are searched: float32, never rescaled."""
        queries = np.ascontiguousarray(embeddings, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise QueryError(0, f"shape {queries.shape[1:]}; expected ({self.dimension},)")
        norms = np.sqrt(np.square(queries, dtype=np.float64).sum(axis=1))
        bad = np.flatnonzero(~(np.abs(norms - 1.0) <= NORM_TOLERANCE))
        if bad.size:
            raise QueryError(int(bad[0]), f"norm {norms[bad[0]]:.6g}; expected a unit vector")
        return queries

    def _answer(self, index: int, found: Found, limit: int, after: Position | None) -> Answer:
        start = 0 if after is None else self._place_after(found, after)
        stop = min(start + limit, found.match_count)
        matches = tuple(self._match(found, place) for place in range(start, stop))
        last = matches[-1] if matches and stop < found.match_count else None
        rejected = found.match_count < found.rows.size
        return Answer(
            query_index=index,
            matches=matches,
            match_count=found.match_count,
            complete=True,
            match_recall=found.match_recall,
            nearest_rejected=self._match(found, found.match_count) if rejected else None,
            next_after=None if last is None else (last.distance, last.item_id),
        )

    def _match(self, found: Found, place: int) -> Match:
        row = int(found.rows[place])
        return Match(self.item_id(row), found.distances[place], row)

    def _place_after(self, found: Found, after: Position) -> int:
        """The first place behind ``after`` in the order of (distance, item_id)."""
        level = np.float32(after[0])
        first = int(np.searchsorted(found.distances, level, side="left"))
        beyond = int(np.searchsorted(found.distances, level, side="right"))
        return bisect_right(
            range(beyond), after[1], lo=first,
            key=lambda place: self.item_id(int(found.rows[place])),
        )
