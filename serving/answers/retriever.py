"""Answers under the release's one threshold, from a release that was verified.

A plain class, usable without any server::

    retriever = Retriever(open_release(folder))
    answer, = retriever.answer("acme", embeddings)

Which items match is decided by all visible items, whatever the limit; the limit caps only the
matches that are returned, and the rest is paged through. The same query gives the same answer,
bit by bit, alone and in any batch. The encoder is opened when the first item is embedded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline import distance
from pipeline.distance import Distances, Vectors
from pipeline.item_log.overlay import UNCHANGED, Overlay
from pipeline.item_log.seen import Position, Seen
from pipeline.releases.release import Release
from pipeline.search.gallery import NORM_TOLERANCE, open_gallery
from pipeline.search.index import open_index
from serving.answers.answer import Answer as Answer
from serving.answers.answer import Match as Match
from serving.answers.answer import answer_of

if TYPE_CHECKING:  # onnxruntime is not needed where queries come as embeddings
    from pipeline.encoding.encoder import Encoder


class QueryError(ValueError):
    """A query that cannot be searched; ``index`` is its place among the queries."""

    def __init__(self, index: int, message: str) -> None:
        """``message`` says what was expected."""
        super().__init__(f"query {index}: {message}")
        self.index = index


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
        overlay: Overlay | None = None,
        up_to: int | None = None,
    ) -> list[Answer]:
        """An answer for each of the ``embeddings`` (n, d), unit rows, asked by ``customer``.

        ``threshold``: instead of the release's. ``exact``: prove that no match is missing.
        ``after``: continue behind this match; one query only. ``overlay``: the customer's online
        changes, to answer under; ``up_to``: without what later ones of them added. Raises
        ``QueryError`` for a row that is no unit vector of the release's space, ``ValueError``
        for other arguments.
        """
        queries = self._checked(embeddings)
        applied = np.float32(self.threshold if threshold is None else threshold)
        if not 0 <= applied <= distance.MAX_DISTANCE:
            raise ValueError(f"threshold: {applied} is no cosine distance in [0, 2]")
        if limit < 1:
            raise ValueError(f"limit: expected at least 1, got {limit}")
        if after is not None and len(queries) != 1:
            raise ValueError(f"after: expected one query to continue, got {len(queries)}")
        seen = self._seen(customer, overlay, up_to)
        found = seen.search(queries, applied, exact=exact)
        return [answer_of(i, seen, one, limit, after, applied) for i, one in enumerate(found)]

    def visible_distances(
        self, customer: str | None, embedding: NDArray[np.float32], overlay: Overlay | None = None
    ) -> tuple[NDArray[np.int64], Distances]:
        """All rows (m,) that ``customer`` sees, and their deciding distances (m,)."""
        query = self._checked(embedding[None, :])
        return self._seen(customer, overlay).distances(query[0])

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
        return self.encoder.embed_steadily(pixels)

    def embed_vectors(self, vectors: NDArray[np.float32]) -> Vectors:
        """(n, d) embeddings of input vectors (n, d_in); ``EncoderError`` if it takes none."""
        return self.encoder.embed_steadily(np.asarray(vectors, np.float32))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """(n, d) embeddings of texts; raises as ``Encoder.tokenise`` does."""
        return self.encoder.embed_steadily(self.encoder.tokenise(texts))

    @cached_property
    def encoder(self) -> Encoder:
        """The release's encoder, opened at first use."""
        from pipeline.encoding.encoder import Encoder

        return Encoder(self.release.folder / "model.onnx", threads=self._threads)

    def warm_up(self) -> None:
        """Open all that embeds, so that no request pays for it; raises as the encoder does."""
        self.encoder.warm_up()

    @property
    def kind(self) -> str:
        """What the encoder takes: ``image``, ``vector`` or ``text``."""
        return self.encoder.kind

    @property
    def input_dimension(self) -> int:
        """Coordinates of an input vector; 0 where the encoder takes none."""
        return self.encoder.input_dimension or 0

    @property
    def space(self) -> str:
        """sha256 of the encoder's model: embeddings are comparable where it is equal."""
        return self.release.manifest.measured_with.model

    def item_id(self, row: int, overlay: Overlay | None = None) -> str:
        """The id of a row's item; past the gallery a row means something with its overlay only."""
        return self._seen(None, overlay).item_id(row)

    def metadata(self, row: int, overlay: Overlay | None = None) -> dict[str, object]:
        """The metadata of a row's item, empty where there is none; ``row`` as for ``item_id``."""
        return self._seen(None, overlay).metadata(row)

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

    def _seen(
        self, customer: str | None, overlay: Overlay | None, up_to: int | None = None
    ) -> Seen:
        return Seen(self.index, customer, overlay or UNCHANGED, up_to)
