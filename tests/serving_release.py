"""A real release of a few hundred items, sealed without training: fast enough for every test.

The encoder is a hand-made ONNX graph: an image's 2 x 2 thumbnail, laid flat and scaled to unit
length, so that an embedding can be computed in one line of NumPy.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from pipeline.calibration.choice import Choice, operating_grid
from pipeline.config import IndexConfig
from pipeline.counting.operating import BUCKETS, Grid, OperatingCounts, save_counts
from pipeline.data.items import Items
from pipeline.releases.manifest import ReleaseFacts
from pipeline.releases.release import Release, measure_digests, seal
from pipeline.search.gallery import build_gallery
from pipeline.search.index import build_index

SIZE = 2
DIMENSION = SIZE * SIZE * 3
THRESHOLD = np.float32(0.05)
RANGE = (0.01, 0.25)
CUSTOMERS = ("Food & Drink", "birds/sea")
SHARED = 40
OWN = 300
FLAT = IndexConfig(kind="flat")


@dataclass(frozen=True)
class World:
    """What the release holds, before it became one."""

    release: Release
    items: Items
    vectors: NDArray[np.float32]

    def rows_of(self, customer: str) -> NDArray[np.int64]:
        """Items that the customer may see."""
        return np.flatnonzero([owner in (None, customer) for owner in self.items.customer])


def png(pixels: NDArray[np.uint8]) -> bytes:
    """An image file that decodes to exactly these pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def embedding_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the encoder says, computed apart from it."""
    flat = pixels.reshape(-1).astype(np.float32)
    return flat / np.sqrt(np.square(flat).sum())


def write_encoder(path: Path, size: int = SIZE) -> None:
    """uint8 (b, 2, 2, 3) to float32 (b, 12) of unit length."""
    dimension = size * size * 3
    pixels = helper.make_tensor_value_info("x", TensorProto.UINT8, ["batch", size, size, 3])
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dimension])
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [-1, dimension])
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["wide", "shape"], ["flat"]),
        helper.make_node("LpNormalization", ["flat"], ["embedding"], axis=1, p=2),
    ]
    graph = helper.make_graph(nodes, "thumbnail", [pixels], [output], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    facts = {"kind": "image", "image_size": size, "dimension": dimension}
    helper.set_model_props(model, {name: str(value) for name, value in facts.items()})
    onnx.save(model, str(path))


def make_world(
    folder: Path, *, seed: int = 7, threshold: np.float32 = THRESHOLD, size: int = SIZE,
    own: int = OWN,
) -> World:
    """Seal the release into ``folder``; other images, or of another size, are another release."""
    rng = np.random.default_rng(seed)
    owners = [None] * SHARED + [name for name in CUSTOMERS for _ in range(own)]
    pixels = rng.integers(1, 256, (len(owners), size, size, 3), dtype=np.uint8)
    pixels[1::7] = pixels[0:-1:7][: len(pixels[1::7])]  # equal neighbours: ties in every answer
    vectors = np.stack([embedding_of(entry) for entry in pixels])
    number = np.arange(len(owners))
    items = Items(
        item_id=np.asarray([f"item-{i:04d}" for i in number], object),
        label=np.asarray([f"class-{i // 7}" for i in number], object),
        customer=np.asarray(owners, object),
        role=np.full(len(owners), "both", object),
        split=np.full(len(owners), "report", object),
        kind="image",
        content=np.asarray([png(entry) for entry in pixels], object),
        metadata=pa.table({"name": [f"thing [{i}]" for i in number]}),
    )
    bins = grid_of(threshold).bins
    pairs = rng.integers(1, 9, (len(CUSTOMERS), BUCKETS, 2, bins)).astype(np.float64)
    counts = dict(zip(sorted(CUSTOMERS), pairs, strict=True))
    return seal_items(folder, items, vectors, counts, threshold=threshold, size=size)


def grid_of(threshold: np.float32 = THRESHOLD) -> Grid:
    """What the pairs of such a release are counted on."""
    choice = Choice(threshold, np.float32(RANGE[0]), np.float32(RANGE[1]), False, "")
    return operating_grid(choice, "cosine")


def seal_items(
    folder: Path, items: Items, vectors: NDArray[np.float32],
    pairs: Mapping[str, NDArray[np.float64]], *,
    threshold: np.float32 = THRESHOLD, size: int = SIZE, index: IndexConfig = FLAT,
) -> World:
    """A release of these items, with ``pairs`` (buckets, 2, bins) counted of each customer."""
    gallery = build_gallery(vectors, items)
    gallery.write(folder)
    build_index(gallery, index, folder)
    write_encoder(folder / "model.onnx", size)
    names = tuple(sorted(pairs))
    counts = OperatingCounts(grid_of(threshold), names, np.stack([pairs[n] for n in names]))
    save_counts(folder / "counts.npz", {"baseline": counts})
    (folder / "report.html").write_text("<h1>report</h1>")
    document = {"threshold": float(threshold), "measured_with": measure_digests(folder),
                "range": {"spacing": "cosine"}}
    (folder / "calibration.json").write_text(json.dumps(document))
    release = seal(folder, ReleaseFacts(
        dimension=size * size * 3, threshold=threshold, rule="far_target 0.001",
        calibration_range=RANGE, guarantee="none: made for tests", recipe={"name": "world"},
        git_commit="unknown", versions={}, data_digest=items.digest(),
    ))
    return World(release, items, vectors)
