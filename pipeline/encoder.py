"""From an item to its embedding, once training is over: the only encoder of a release.

``decode_image`` turns the bytes of an image into pixels, for training and serving alike.
``Encoder`` runs the exported model. From uint8 pixels on everything, normalisation and unit
length included, is inside the model, so nothing here can differ between the two. onnxruntime
is imported in this module only.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort
from PIL import Image, ImageOps

from pipeline.distance import Vectors

Pixels = NDArray[np.uint8]
"""uint8 red, green, blue in the last axis."""

MAX_PIXELS = 64_000_000
"""Largest width x height that is decoded: a few bytes may claim gigabytes."""

# Formats whose decoders run on hostile bytes every day; EPS, for one, would start a program.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

# What Pillow raises on malformed bytes, besides its own errors.
_MALFORMED = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError,
    OverflowError, ZeroDivisionError, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip

# onnxruntime's errors share no base class of their own.
_UNUSABLE = (
    ort.Fail, ort.InvalidArgument, ort.InvalidGraph, ort.InvalidProtobuf, ort.NoModel,
    ort.NoSuchFile, ort.NotFound, ort.NotImplemented, ort.RuntimeException,
)  # fmt: skip

_BATCH = 256


class ImageError(ValueError):
    """Bytes that are no usable image; the message is one line without the item's name."""


class EncoderError(ValueError):
    """A model that is not an encoder of this project, or input that it cannot take."""


def decode_image(data: bytes, size: int) -> Pixels:
    """(size, size, 3) uint8 pixels of an encoded image.

    The camera's orientation is applied, transparency is laid over white, and the image keeps
    its proportions: the longer side becomes ``size`` (bicubic, antialiased), the rest is white.
    Raises ``ImageError`` where the bytes are no image of a known format, are cut off, or claim
    more than ``MAX_PIXELS``.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ImageError(
                    f"image of {opened.width} x {opened.height} pixels; "
                    f"expected at most {MAX_PIXELS} in all: make it smaller"
                )
            opaque = _over_white(ImageOps.exif_transpose(opened))
    except ImageError:
        raise
    except _MALFORMED as error:
        raise ImageError(
            f"undecodable image ({len(data)} bytes, {type(error).__name__}); "
            f"expected a whole file of {', '.join(_FORMATS)}"
        ) from error
    return _fit(opaque, size)


def _over_white(image: Image.Image) -> Image.Image:
    """The image as opaque RGB."""
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit grey at 255 when it converts; keep the upper byte instead.
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageError(f"image with {image.mode} pixels; expected 8 or 16 bits a channel")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def _fit(image: Image.Image, size: int) -> Pixels:
    longest = max(image.size)
    width, height = (max(1, round(side * size / longest)) for side in image.size)
    scaled = image.resize((width, height), Image.Resampling.BICUBIC)
    canvas = np.full((size, size, 3), 255, np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = np.asarray(scaled)
    return canvas


class Encoder:
    """An exported model, ready to embed. Not shared between processes; open one in each."""

    kind: str
    """``image`` or ``vector``: what ``embed`` takes."""
    dimension: int
    """Coordinates of an embedding."""
    image_size: int | None
    """Side of the square in pixels; None for vectors."""
    input_dimension: int | None
    """Coordinates of an input vector; None for images."""

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
            raise EncoderError(f"{path}: not a usable ONNX model: {_line(error)}") from error
        if session.get_providers()[0] != provider:
            raise EncoderError(f"{path}: {provider} did not start; check CUDA and cuDNN")
        self._session = session
        self._read_facts(path, dict(session.get_modelmeta().custom_metadata_map))

    def _read_facts(self, path: Path, facts: dict[str, str]) -> None:
        try:
            self.kind = facts["kind"]
            self.dimension = int(facts["dimension"])
            self.image_size = int(facts["image_size"]) if self.kind == "image" else None
            self.input_dimension = int(facts["input_dimension"]) if self.kind == "vector" else None
        except (KeyError, ValueError) as error:
            raise EncoderError(f"{path}: no usable metadata ({error}); expected a Limen export"
                               ) from error
        if self.image_size is None and self.input_dimension is None:
            raise EncoderError(f"{path}: kind {self.kind!r}; expected 'image' or 'vector'")

    def decode(self, data: bytes) -> Pixels:
        """(S, S, 3) pixels of an encoded image, as ``embed`` takes them.

        Raises ``ImageError``; ``EncoderError`` where this encoder takes vectors.
        """
        if self.image_size is None:
            raise EncoderError("this release embeds vectors; it takes no image")
        return decode_image(data, self.image_size)

    def embed(self, batch: NDArray[np.generic]) -> Vectors:
        """(n, d) float32 unit rows of (n, S, S, 3) uint8 pixels or (n, d_in) float32 vectors.

        Any n, 0 included. Raises ``EncoderError`` for another shape or type, for numbers that
        are not finite, and where an embedding has no direction.
        """
        self._check(batch)
        rows = np.empty((len(batch), self.dimension), np.float32)
        for start in range(0, len(batch), _BATCH):
            part = np.ascontiguousarray(batch[start : start + _BATCH])
            rows[start : start + _BATCH] = self._session.run(None, {"x": part})[0]
        lengths = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))
        bad = np.flatnonzero(~(np.abs(lengths - 1.0) < 1e-3))
        if bad.size:
            raise EncoderError(
                f"row {bad[0]}: embedding of length {lengths[bad[0]]:.3g}; expected a unit vector"
            )
        return rows

    def _check(self, batch: NDArray[np.generic]) -> None:
        shape: tuple[int, ...] = (self.input_dimension or 0,)
        kind: type[np.generic] = np.float32
        if self.image_size is not None:
            shape, kind = (self.image_size, self.image_size, 3), np.uint8
        if batch.ndim == 0 or batch.shape[1:] != shape or batch.dtype != kind:
            raise EncoderError(
                f"batch of {batch.dtype} {batch.shape}; expected {kind.__name__} (n, "
                f"{', '.join(str(side) for side in shape)})"
            )
        if kind is np.float32 and not np.isfinite(np.asarray(batch, np.float32)).all():
            row = int(np.flatnonzero(~np.isfinite(np.asarray(batch, np.float32)).all(axis=1))[0])
            raise EncoderError(f"row {row}: vector is not finite; expected finite numbers")


def _line(error: Exception) -> str:
    """First line of a message."""
    return str(error).strip().partition("\n")[0]
