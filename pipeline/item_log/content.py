"""From what was sent of an item to its embedding, alone, so that every replica gets equal bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.item_log.changes import Content
from pipeline.search.gallery import NORM_TOLERANCE

if TYPE_CHECKING:  # onnxruntime is not needed where items come as embeddings
    from pipeline.encoding.encoder import Encoder


class ContentError(ValueError):
    """Content that a release cannot embed; the message is one line without the item's name."""


class Embedder:
    """Embeds contents as one release does."""

    def __init__(
        self, encoder: Callable[[], Encoder], space: Callable[[], str], dimension: int
    ) -> None:
        """``encoder`` opens the release's; ``space`` gives the sha256 of its model."""
        self._encoder = encoder
        self._space = space
        self._dimension = dimension

    def embed(self, content: Content) -> NDArray[np.float32]:
        """(d,) unit vector; an embedding stays as it was sent. Raises ``ContentError``."""
        if content.kind == "embedding":
            return self._checked(content)
        from pipeline.data.tokeniser import TextError
        from pipeline.encoding.encoder import EncoderError, ImageError

        encoder = self._encoder()
        if content.kind != encoder.kind:
            raise ContentError(
                f"this release embeds {encoder.kind}s; send {encoder.kind!r} or an embedding"
            )
        try:
            if content.kind == "image":
                return np.asarray(encoder.embed_steadily(encoder.decode(content.data)[None])[0])
            if content.kind == "text":
                ids = encoder.tokenise([content.data.decode()])
                return np.asarray(encoder.embed_steadily(ids)[0])
            row = coordinates(content.data, encoder.input_dimension or 0)
            return np.asarray(encoder.embed_steadily(row[None])[0])
        except TextError as error:
            raise ContentError(error.reason) from None
        except (ImageError, EncoderError) as error:
            raise ContentError(str(error)) from None

    def _checked(self, content: Content) -> NDArray[np.float32]:
        row = coordinates(content.data, self._dimension)
        norm = float(np.sqrt(np.square(row.astype(np.float64)).sum()))
        if abs(norm - 1.0) > NORM_TOLERANCE:
            raise ContentError(f"norm {norm:.6g}; expected a unit vector, within {NORM_TOLERANCE}")
        # Equal numbers of coordinates do not make one space.
        if content.encoder != self._space():
            raise ContentError("an embedding of another encoder; send the item itself")
        return row


def coordinates(data: bytes, dimension: int) -> NDArray[np.float32]:
    """(dimension,) float32 from little-endian bytes: finite, not all zero; ``ContentError``."""
    if len(data) % 4:
        raise ContentError(f"{len(data)} bytes; expected little-endian float32, 4 bytes each")
    row = np.frombuffer(data, "<f4").astype(np.float32)
    if row.size != dimension:
        raise ContentError(f"{row.size} coordinates; expected {dimension}")
    if not np.isfinite(row).all():
        raise ContentError("not finite; expected finite float32 numbers")
    if not row.any():
        raise ContentError("all zero; a zero vector has no direction")
    return row
