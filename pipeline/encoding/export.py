"""Torch to ONNX, refused unless the decisions agree.

The exported graph takes raw pixels or vectors in a batch of any size and gives unit rows; what
it takes is written into its metadata, so that the encoder needs no second file. Equal weights
give equal bytes: traces of the source code, which hold paths of this machine, are removed.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from pipeline.distance import Vectors, deciding
from pipeline.durable import write_durably
from pipeline.encoding.encoder import Encoder
from pipeline.models.registry import EmbeddingModel

GUARD = 1e-5
"""Half width, in cosine distance, of the band around a threshold in which a pair may flip."""

# Warn of packages that are not installed and not needed, and of constants left as they are.
_CHATTY = (
    "torch.onnx._internal.exporter._registration", "onnxscript.optimizer._constant_folding",
)  # fmt: skip

_BATCHES = (1, 64)
_LARGEST = 2**31  # bytes that a protobuf message, and so an ONNX file, can hold
_BLOCK = 512  # rows of the matrix of pairs held at a time


class ExportError(RuntimeError):
    """The exported model decides differently from the trained one."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far exported and trained model are apart on one set of items."""

    max_distance_change: float
    """Largest change of a pair's cosine distance, over all batch sizes."""
    guard: float
    """Change that a pair in the range may have at most."""
    pairs: int
    """Unordered pairs compared, for each batch size."""


def export_onnx(model: EmbeddingModel, path: Path) -> None:
    """Write ``model`` to ``path`` as ONNX, whole or not at all; takes seconds.

    Input ``x`` (batch, S, S, 3) uint8, (batch, d_in) float32 or (batch, tokens) int64, output
    ``embedding`` (batch, d) float32 unit rows, batch from 1 on. Metadata: kind, dimension,
    image_size | input_dimension | tokens; fit where it is ``crop``; a text model's tokenizer.
    """
    _require_size(model)
    example = _example(model)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch warns of its own code
        program = torch.onnx.export(
            model.to("cpu").eval().served(),
            (example,),
            dynamo=True,
            input_names=["x"],
            output_names=["embedding"],
            dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=1024)}},
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise ExportError("the exporter gave no program")
    _set_aside(program, "embedding")
    proto = _anonymous(program.model_proto)
    onnx.helper.set_model_props(proto, _facts(model))
    onnx.checker.check_model(proto)
    write_durably(path, proto.SerializeToString(deterministic=True))


def add_facts(path: Path, facts: Mapping[str, str]) -> None:
    """Write what was found out about the exported model into its metadata, whole or not at all."""
    proto = onnx.load(str(path))
    known = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, known | dict(facts))
    write_durably(path, proto.SerializeToString(deterministic=True))


def check_parity(
    model: EmbeddingModel,
    encoder: Encoder,
    inputs: NDArray[np.generic],
    *,
    low: float,
    high: float,
    guard: float = GUARD,
) -> Parity:
    """Compare every pair of ``inputs`` (n, ...) under the trained and the exported model.

    For every threshold in [``low``, ``high``] no pair whose distance is further than ``guard``
    from it may change sides. A pair can do so at some threshold between its two distances, so
    this refuses exactly the pairs that move by more than ``guard`` within the range. Checked at
    batch 1 and 64. Raises ``ExportError`` naming the worst pair.
    """
    with torch.inference_mode():
        trained = np.concatenate([
            model(torch.from_numpy(np.array(part))).numpy()
            for part in _parts(inputs, _BATCHES[-1])
        ])
    worst = 0.0
    for batch in _BATCHES:
        exported = np.concatenate([encoder.embed(part) for part in _parts(inputs, batch)])
        worst = max(worst, _compare(trained, exported, batch, (low, high, guard)))
    return Parity(worst, guard, len(inputs) * (len(inputs) - 1) // 2)


def _compare(
    trained: Vectors, exported: Vectors, batch: int, limits: tuple[float, float, float]
) -> float:
    """Largest change of a distance; ``ExportError`` where a pair flips within ``limits``."""
    low, high, guard = limits
    worst = 0.0
    for start in range(0, len(trained), _BLOCK):
        rows = slice(start, start + _BLOCK)
        before = deciding(trained[rows], trained[start:])
        after = deciding(exported[rows], exported[start:])
        change = np.abs(after.astype(np.float64) - before)
        within = (np.maximum(before, after) > low) & (np.minimum(before, after) <= high)
        flips = np.where(within & (change > guard), change, 0.0)
        if flips.any():
            i, j = np.unravel_index(int(flips.argmax()), flips.shape)
            raise ExportError(
                f"items {start + i} and {start + j} are {before[i, j]:.6f} apart in torch and "
                f"{after[i, j]:.6f} in ONNX (batch {batch}); expected a change of at most "
                f"{guard:g} for thresholds from {low:.4f} to {high:.4f}"
            )
        worst = max(worst, float(change.max()))
    return worst


def _parts(inputs: NDArray[np.generic], batch: int) -> Iterator[NDArray[np.generic]]:
    return (np.asarray(inputs[i : i + batch]) for i in range(0, len(inputs), batch))


def _require_size(model: EmbeddingModel) -> None:
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    if size >= _LARGEST:
        raise ExportError(
            f"weights of {size / 2**30:.1f} GiB; an export is one file of at most "
            f"{_LARGEST / 2**30:.0f} GiB: take a smaller backbone"
        )


def _example(model: EmbeddingModel) -> torch.Tensor:
    if model.kind == "image":
        side = model.config.image_size
        return torch.zeros(2, side, side, 3, dtype=torch.uint8)
    if model.kind == "text":
        return torch.zeros(2, model.config.tokens, dtype=torch.int64)
    return torch.zeros(2, model.input_dimension or 0)


def _facts(model: EmbeddingModel) -> dict[str, str]:
    facts = {"kind": model.kind, "dimension": str(model.config.dimension)}
    if model.kind == "image":
        facts["image_size"] = str(model.config.image_size)
        if model.config.fit != "pad":  # what exports without a word on it mean
            facts["fit"] = model.config.fit
    elif model.kind == "vector":
        facts["input_dimension"] = str(model.input_dimension)
    return facts | model.backbone.facts()


def _set_aside(program: torch.onnx.ONNXProgram, name: str) -> None:
    """Rename what is called like the output inside: torch names values by their operators."""
    graph = program.model.graph
    # What depends on no input is folded into a constant, and keeps the operator's name.
    inside = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for value in inside:
        if value.name == name and value not in graph.outputs:
            value.name = f"inner_{name}"


def _anonymous(proto: onnx.ModelProto) -> onnx.ModelProto:
    """``proto`` without what the exporter noted about the source code."""
    graph = proto.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    graph.doc_string = ""
    del graph.metadata_props[:]
    return proto
