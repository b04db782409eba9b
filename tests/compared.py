"""Two releases over one small table, sealed without training: whatever differs is asked for.

The encoder is a matrix product scaled to unit length, so that what it says is one line of NumPy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jobs.index import label_hash
from pipeline import distance
from pipeline.config import parse_recipe
from pipeline.counting.operating import BUCKETS, Grid, OperatingCounts, save_counts
from pipeline.data.items import Items
from pipeline.evaluation.embedding import population
from pipeline.releases.manifest import ReleaseFacts
from pipeline.releases.release import measure_digests, seal
from pipeline.releases.store import Store
from pipeline.search.index import build_index

INPUTS = 8
RANGE = (0.02, 0.6)


def make_items(*, seed: int = 0, labels: int = 18, each: int = 5, spread: float = 0.5) -> Items:
    """Three customers with labels of their own, some shared and some unlabelled items."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(labels, INPUTS))
    number = np.repeat(np.arange(labels), each)
    vectors = centres[number] + spread * rng.normal(size=(number.size, INPUTS))
    count = number.size
    shared = np.arange(count) % each >= each - 2
    return Items(
        item_id=np.asarray([f"i{k:03d}" for k in range(count)], object),
        label=np.asarray([None if k % 17 == 3 else f"l{number[k]}" for k in range(count)], object),
        customer=np.asarray(
            [None if shared[k] else f"customer {'abc'[number[k] % 3]}" for k in range(count)],
            object,
        ),
        role=np.asarray([("both", "both", "query", "gallery", "both")[k % 5]
                         for k in range(count)], object),
        split=np.full(count, "", object),
        kind="vector",
        content=vectors.astype(np.float32),
        metadata=pa.table({}),
    )  # fmt: skip


def embeddings(items: Items, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the encoder says, computed apart from it."""
    return distance.unit(items.content.astype(np.float32) @ weights)


def write(items: Items, path: Path) -> None:
    """The items as a table that somebody else made: nothing is known of a split."""
    pq.write_table(items.to_table().drop_columns(["split"]), path)


def write_encoder(path: Path, weights: NDArray[np.float32]) -> None:
    """float32 (b, d_in) to float32 (b, d) of unit length."""
    width, dimension = weights.shape
    taken = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])
    given = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dimension])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["wide"]),
        helper.make_node("LpNormalization", ["wide"], ["embedding"], axis=1, p=2),
    ]
    weight = numpy_helper.from_array(np.asarray(weights, np.float32), "w")
    graph = helper.make_graph(nodes, "linear", [taken], [given], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    facts = {"kind": "vector", "input_dimension": width, "dimension": dimension}
    helper.set_model_props(model, {name: str(value) for name, value in facts.items()})
    onnx.save(model, str(path))


def add_release(
    store: Path,
    folder: Path,
    weights: NDArray[np.float32],
    threshold: float,
    *,
    sections: Mapping[str, object] | None = None,
    trained: tuple[str, ...] = (),
) -> str:
    """Seal a release into ``folder`` and keep it in ``store``; the first 12 digits of its id."""
    recipe = parse_recipe({"name": "two", "data": {"items": "x.parquet"}, **(sections or {})}, "")
    items = make_items(seed=99, labels=6)
    decided = np.float32(threshold)
    folder.mkdir(parents=True)
    gallery = population(embeddings(items, weights), items).gallery
    gallery.write(folder)
    build_index(gallery, recipe.index, folder)
    write_encoder(folder / "model.onnx", weights)
    np.save(folder / "trained.npy", np.asarray([label_hash(name) for name in trained], np.uint64))
    grid = Grid(np.asarray(RANGE, np.float32))
    counts = OperatingCounts(grid, ("a",), np.ones((1, BUCKETS, 2, grid.bins)))
    save_counts(folder / "counts.npz", {"baseline": counts})
    (folder / "report.html").write_text("<h1>report</h1>")
    document = {"threshold": float(decided), "measured_with": measure_digests(folder)}
    (folder / "calibration.json").write_text(json.dumps(document))
    seal(folder, ReleaseFacts(
        dimension=weights.shape[1], threshold=decided, rule="far_target 0.001",
        calibration_range=RANGE, guarantee="none: made for tests", recipe=recipe.resolved(),
        git_commit="unknown", versions={}, data_digest=items.digest(),
    ))
    return Store(str(store)).add(folder)[:12]
