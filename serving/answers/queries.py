"""From the queries of a request to unit embeddings, or a refusal that names the query.

One bad query refuses the request: ``details.index`` is its place. An embedding of the client is
searched as it is sent, never rescaled: its norm may be off by ``NORM_TOLERANCE``, no more.
"""

from __future__ import annotations

import base64
import binascii
import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.tokeniser import TextError
from pipeline.distance import Vectors
from pipeline.encoding.encoder import ImageError, NoDirectionError
from pipeline.search.gallery import NORM_TOLERANCE
from serving.answers.retriever import Retriever
from serving.responses import RefusedError
from serving.schema.bodies import Query

MAX_TEXT = 100_000
"""Characters of a text; models read some hundred words."""


def embeddings_of(
    queries: Sequence[Query], retriever: Retriever, deadline: float = math.inf
) -> Vectors:
    """(n, d) float32 rows to search with, in the order of ``queries``.

    ``RefusedError`` 422 that names the query, or 504 past ``deadline`` on the monotonic clock.
    """
    rows: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(queries)
    images: dict[int, bytes] = {}
    vectors: dict[int, NDArray[np.float32]] = {}
    texts: dict[int, str] = {}
    for index, query in enumerate(queries):
        if query.embedding is not None or query.embedding_b64 is not None:
            rows[index] = _embedding(query, index, retriever.dimension)
        elif query.image is not None:
            _require_kind("image", retriever, index)
            images[index] = _base64(query.image, index, "image")
        elif query.vector is not None:
            _require_kind("vector", retriever, index)
            vectors[index] = _vector(query.vector, index, retriever.input_dimension)
        elif query.text is not None:
            _require_kind("text", retriever, index)
            texts[index] = _text(query.text, index)
    if images:
        _place(rows, images, "image", lambda: _images(images, retriever, deadline))
    if vectors:
        stacked = np.stack(list(vectors.values()))
        _place(rows, vectors, "vector", lambda: retriever.embed_vectors(stacked))
    if texts:
        _place(rows, texts, "text", lambda: _texts(texts, retriever))
    return np.stack(rows)


def _place(
    rows: list[NDArray[np.float32]], given: Mapping[int, object], name: str,
    embed: Callable[[], Vectors],
) -> None:
    """Put the embeddings of the ``given`` queries in their places among ``rows``."""
    try:
        embedded = embed()
    except NoDirectionError as error:
        raise _unprocessable(list(given)[error.place], name, error.reason) from None
    for place, row in zip(given, embedded, strict=True):
        rows[place] = row


def _images(images: dict[int, bytes], retriever: Retriever, deadline: float) -> Vectors:
    """Decoded one by one, since one image may take seconds; embedded all at once."""
    pixels = []
    for index, data in images.items():
        if time.monotonic() > deadline:
            raise RefusedError(504, "deadline_exceeded", "too many large images for one request",
                               retry_after=1)
        try:
            pixels.append(retriever.decode_image(data))
        except ImageError as error:
            raise _unprocessable(index, "image", str(error)) from None
    return retriever.embed_pixels(np.stack(pixels))


def _texts(texts: dict[int, str], retriever: Retriever) -> Vectors:
    try:
        return retriever.embed_texts(list(texts.values()))
    except TextError as error:
        raise _unprocessable(list(texts)[error.place], "text", error.reason) from None


def _text(text: str, index: int) -> str:
    """A text of a length that tokenising may take: it reads all of it, whatever is cut off."""
    if len(text) > MAX_TEXT:
        raise _unprocessable(
            index, "text", f"{len(text)} characters; expected at most {MAX_TEXT}"
        )
    return text


def _embedding(query: Query, index: int, dimension: int) -> NDArray[np.float32]:
    if query.embedding is not None:
        name, row = "embedding", _float32(query.embedding)
    else:
        name = "embedding_b64"
        data = _base64(query.embedding_b64 or "", index, name)
        if len(data) % 4:
            raise _unprocessable(
                index, name, f"{len(data)} bytes; expected little-endian float32, 4 bytes each"
            )
        row = np.frombuffer(data, "<f4").astype(np.float32)
    norm = math.sqrt(np.square(row.astype(np.float64)).sum())
    if not abs(norm - 1.0) <= NORM_TOLERANCE or row.size != dimension:
        _check_vector(row, index, name, dimension)
        raise _unprocessable(
            index, name, f"norm {norm:.6g}; expected a unit vector, within {NORM_TOLERANCE}"
        )
    return row


def _vector(values: Sequence[float], index: int, dimension: int) -> NDArray[np.float32]:
    row = _float32(values)
    _check_vector(row, index, "vector", dimension)
    return row


def _float32(values: Sequence[float]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # past float32's range becomes inf, and is refused as such
        return np.asarray(values, np.float64).astype(np.float32)


def _check_vector(row: NDArray[np.float32], index: int, name: str, dimension: int) -> None:
    if row.size != dimension:
        raise _unprocessable(index, name, f"{row.size} coordinates; expected {dimension}")
    if not np.isfinite(row).all():
        raise _unprocessable(index, name, "not finite; expected finite float32 numbers")
    if not row.any():
        raise _unprocessable(index, name, "all zero; a zero vector has no direction")


def _base64(text: str, index: int, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _unprocessable(index, name, "not base64") from None


def _require_kind(kind: str, retriever: Retriever, index: int) -> None:
    if kind != retriever.kind:
        raise _unprocessable(
            index, kind,
            f"this release embeds {retriever.kind}s; send {retriever.kind!r} or an embedding",
        )


def _unprocessable(index: int, name: str, message: str) -> RefusedError:
    return RefusedError(
        422, "invalid_query", f"queries.{index}.{name}: {message}",
        details={"index": index, "field": name},
    )
