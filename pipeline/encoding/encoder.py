"""From an item to its embedding, once training is over: the only encoder of a release.

``Encoder`` runs the exported model. From pixels, vectors or token ids on everything,
normalisation and unit length included, is inside the model; what makes pixels of an image and
ids of a text is written into its metadata. So nothing can differ between training and serving.
onnxruntime is imported in this module only.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort

from pipeline.data.decoding import FITS, Pixels
from pipeline.data.decoding import ImageError as ImageError
from pipeline.data.decoding import decode_image as decode_image
from pipeline.data.tokeniser import TokenIds, Tokeniser
from pipeline.distance import Vectors
from pipeline.encoding import batching
from pipeline.encoding.batching import Batching
from pipeline.strict import first_line

# onnxruntime's errors share no base class of their own.
_UNUSABLE = (
    ort.Fail, ort.InvalidArgument, ort.InvalidGraph, ort.InvalidProtobuf, ort.NoModel,
    ort.NoSuchFile, ort.NotFound, ort.NotImplemented, ort.RuntimeException,
)  # fmt: skip

_KINDS = ("image", "vector", "text")
_BATCH = 256


class EncoderError(ValueError):
    """A model that is not an encoder of this project, or input that it cannot take."""


class NoDirectionError(EncoderError):
    """An item whose embedding has no direction, such as one that the model sees nothing in."""

    def __init__(self, place: int, length: float) -> None:
        """``place``: its row in the batch; ``length`` of its embedding."""
        self.place = place
        self.reason = f"embedding of length {length:.3g}; expected a unit vector"
        super().__init__(f"row {place}: {self.reason}")


class Encoder:
    """An exported model, ready to embed. Not shared between processes; open one in each."""

    kind: str
    """``image``, ``vector`` or ``text``: what ``embed`` takes."""
    dimension: int
    """Coordinates of an embedding."""
    image_size: int | None
    """Side of the square in pixels; None for other kinds."""
    fit: str
    """How an image fills the square, as ``decode_image`` takes it."""
    input_dimension: int | None
    """Coordinates of an input vector; None for other kinds."""
    tokens: int | None
    """Token ids of a text; None for other kinds."""
    batching: Batching
    """What the release's build found out about its batches."""
    preparation: Hashable
    """How ``decode`` and ``tokenise`` do it: encoders with equal ones take equal inputs."""

    def __init__(self, path: Path, *, threads: int = 1, device: str = "cpu") -> None:
        """Open the model at ``path`` on ``device``, ``cpu`` or ``cuda``.

        Raises ``EncoderError`` where it is no export of this project or where the installed
        onnxruntime cannot use the device (left alone, it would fall back silently).
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that wait by spinning take the core from whoever has work to do.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
        if provider not in onnxruntime.get_available_providers():
            raise EncoderError(
                f"{path}: this onnxruntime has no {provider}; install limen[gpu] or use the cpu"
            )
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        except _UNUSABLE as error:
            raise EncoderError(f"{path}: not a usable ONNX model: {first_line(error)}") from error
        if session.get_providers()[0] != provider:
            raise EncoderError(f"{path}: {provider} did not start; check CUDA and cuDNN")
        self._session = session
        self._path = path
        self._facts = dict(session.get_modelmeta().custom_metadata_map)
        self._read_facts()

    def _read_facts(self) -> None:
        facts, path = self._facts, self._path
        try:
            self.kind = facts["kind"]
            self.dimension = int(facts["dimension"])
            self.image_size = int(facts["image_size"]) if self.kind == "image" else None
            self.fit = facts.get("fit", "pad")  # older exports knew nothing else
            self.input_dimension = int(facts["input_dimension"]) if self.kind == "vector" else None
            self.tokens = int(facts["tokens"]) if self.kind == "text" else None
            self._vocabulary = int(facts["vocabulary"]) if self.kind == "text" else 0
            self.batching = batching.read(facts)
            self.preparation = (self.image_size, self.fit, facts.get("tokenizer"))
        except (KeyError, ValueError) as error:
            raise EncoderError(f"{path}: no usable metadata ({error}); expected a Limen export"
                               ) from error
        if self.kind not in _KINDS or self.fit not in FITS:
            raise EncoderError(
                f"{path}: kind {self.kind!r}, fit {self.fit!r}; expected one of "
                f"{', '.join(_KINDS)} and of {', '.join(FITS)}: made by a newer Limen?"
            )

    def decode(self, data: bytes) -> Pixels:
        """(S, S, 3) pixels of an encoded image, as ``embed`` takes them.

        Raises ``ImageError``; ``EncoderError`` where this encoder takes something else.
        """
        if self.image_size is None:
            raise EncoderError(f"this release embeds {self.kind}s; it takes no image")
        return decode_image(data, self.image_size, self.fit)

    def tokenise(self, texts: Sequence[str]) -> TokenIds:
        """(n, tokens) token ids of texts, as ``embed`` takes them.

        A text of more tokens is cut off. Raises ``TextError`` for the first text that cannot be
        read, ``TokeniserError`` where the package tokenizers is missing, ``EncoderError`` where
        this encoder takes something else.
        """
        return self.tokeniser.ids(texts)

    @cached_property
    def tokeniser(self) -> Tokeniser:
        """The tokeniser that the model was trained with; raises as ``tokenise`` does."""
        if self.tokens is None:
            raise EncoderError(f"this release embeds {self.kind}s; it takes no text")
        return Tokeniser(self._facts["tokenizer"], str(self._path))

    def embed(
        self, batch: NDArray[np.generic], *, at_once: int = _BATCH, at_least: int = 1
    ) -> Vectors:
        """(n, d) float32 unit rows of what this encoder takes.

        That is (n, S, S, 3) uint8 pixels, (n, d_in) float32 vectors or (n, tokens) int64 token
        ids. Any n, 0 included. Raises ``EncoderError`` for another shape or type, for numbers that
        are not finite, and where an embedding has no direction. The model runs on ``at_once``
        rows at most and on ``at_least`` so many: copies of its last row fill up a shorter part.
        """
        self._check(batch)
        rows = np.empty((len(batch), self.dimension), np.float32)
        for start in range(0, len(batch), at_once):
            part = np.asarray(batch[start : start + at_once])
            copies = np.repeat(part[-1:], max(0, at_least - len(part)), axis=0)
            run = self._session.run(None, {"x": np.concatenate([part, copies])})[0]
            rows[start : start + at_once] = run[: len(part)]
        lengths = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))
        bad = np.flatnonzero(~(np.abs(lengths - 1.0) < 1e-3))
        if bad.size:
            raise NoDirectionError(int(bad[0]), float(lengths[bad[0]]))
        return rows

    def embed_steadily(self, batch: NDArray[np.generic]) -> Vectors:
        """As ``embed``; no bit of a row depends on what is embedded beside it."""
        how = self.steady
        return self.embed(batch, at_once=how.at_once, at_least=how.at_least)

    @cached_property
    def steady(self) -> Batching:
        """How ``embed_steadily`` does it: as the build found it right, and this processor too.

        Another processor may sum in another order, so the first use tries it, in as many runs as
        it takes to see that; a model whose build says nothing embeds every row alone.
        """
        if self.batching.at_once == 1:
            return self.batching
        inputs = self._any_inputs(batching.LARGEST)
        return self.batching.joined(batching.probe(self, inputs, (2, 7, batching.LARGEST)))

    def warm_up(self) -> None:
        """Do what the first item would wait for; raises ``TokeniserError`` as ``tokenise`` does."""
        if self.tokens is not None:
            self.tokeniser.ids(())
        self.embed_steadily(self._any_inputs(1))

    def _any_inputs(self, number: int) -> NDArray[np.generic]:
        """(number, ...) inputs without meaning: which sums are taken in which order shows."""
        rng = np.random.default_rng(0)
        if self.image_size is not None:
            side = self.image_size
            return rng.integers(0, 256, (number, side, side, 3), dtype=np.uint8)
        if self.tokens is not None:
            return rng.integers(0, self._vocabulary, (number, self.tokens), dtype=np.int64)
        return rng.standard_normal((number, self.input_dimension or 0)).astype(np.float32)

    def _check(self, batch: NDArray[np.generic]) -> None:
        shape: tuple[int, ...]
        kind: type[np.generic]
        if self.image_size is not None:
            shape, kind = (self.image_size, self.image_size, 3), np.uint8
        elif self.tokens is not None:
            shape, kind = (self.tokens,), np.int64
        else:
            shape, kind = (self.input_dimension or 0,), np.float32
        if batch.ndim == 0 or batch.shape[1:] != shape or batch.dtype != kind:
            raise EncoderError(
                f"batch of {batch.dtype} {batch.shape}; expected {kind.__name__} (n, "
                f"{', '.join(str(side) for side in shape)})"
            )
        if self.kind == "vector":
            bad, why = ~np.isfinite(batch), "vector is not finite; expected finite numbers"
        elif self.kind == "text":
            ids = np.asarray(batch, np.int64)
            bad = (ids < 0) | (ids >= self._vocabulary)
            why = f"no token id; expected 0 to {self._vocabulary - 1}"
        else:
            return
        if bad.any():
            raise EncoderError(f"row {np.flatnonzero(bad.any(axis=1))[0]}: {why}")
