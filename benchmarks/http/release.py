"""A release to serve, sealed as every release is, around the generator's items."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.search.data import MATCHES, QUERIES, in_order, world
from pipeline import distance
from pipeline.calibration.choice import Choice, operating_grid
from pipeline.config import IndexConfig
from pipeline.consistency.ranges import RANGE_FAR
from pipeline.counting.operating import BUCKETS, OperatingCounts, save_counts
from pipeline.distance import Vectors
from pipeline.releases.manifest import ReleaseFacts
from pipeline.releases.release import Release, measure_digests, open_release, seal
from pipeline.search.index import build_index

CUSTOMER = "one"
"""Who owns all items and asks all queries."""
_SAMPLE = 200


def release_of(folder: Path, items: int, dimension: int) -> tuple[Release, Vectors]:
    """The release in ``folder`` and (n, d) queries; built where it is not there yet.

    The threshold lets a query have 16 matches on average.
    """
    sealed = folder / f"{items}x{dimension}"
    if not (sealed / "manifest.json").exists():
        _build(sealed, items, dimension)
    return open_release(sealed), np.load(sealed.with_suffix(".queries.npy"))


def _build(sealed: Path, items: int, dimension: int) -> None:
    vectors = world(items + QUERIES, dimension)
    queries, rows = vectors[:QUERIES], vectors[QUERIES:]
    gallery = in_order(rows)
    gallery.write(sealed)
    sealed.with_suffix(".queries.npy").unlink(missing_ok=True)
    np.save(sealed.with_suffix(".queries.npy"), queries)
    sample = distance.deciding(queries[:_SAMPLE], gallery.vectors).ravel()
    wanted = [MATCHES / items, *RANGE_FAR]
    places = [min(sample.size - 1, int(share * sample.size)) for share in wanted]
    threshold, low, high = np.partition(sample, places)[places]
    low = min(low, threshold)  # a range that does not hold the threshold is widened
    build_index(gallery, IndexConfig(kind="ivf"), sealed, horizon=float(threshold))
    _write_encoder(sealed / "model.onnx", dimension)
    grid = operating_grid(Choice(threshold, low, high, True, ""), "cosine")
    pairs = np.ones((1, BUCKETS, 2, grid.bins))
    save_counts(sealed / "counts.npz", {"baseline": OperatingCounts(grid, (CUSTOMER,), pairs)})
    (sealed / "report.html").write_text("<h1>made for a benchmark</h1>")
    (sealed / "calibration.json").write_text(json.dumps({
        "threshold": float(threshold), "measured_with": measure_digests(sealed),
        "range": {"spacing": "cosine"},
    }))
    seal(sealed, ReleaseFacts(
        dimension=dimension, threshold=threshold, rule="made for a benchmark",
        calibration_range=(float(low), float(high)), guarantee="none: made for a benchmark",
        recipe={"name": "benchmark"}, git_commit="unknown", versions={},
        data_digest=hashlib.sha256(vectors.tobytes()).hexdigest(),
    ))


def _write_encoder(path: Path, dimension: int) -> None:
    """Vectors scaled to unit length: the benchmark's queries come as embeddings."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", dimension])
            for name in ("x", "embedding")]
    node = helper.make_node("LpNormalization", ["x"], ["embedding"], axis=1, p=2)
    graph = helper.make_graph([node], "unit", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    facts = {"kind": "vector", "input_dimension": dimension, "dimension": dimension}
    helper.set_model_props(model, {name: str(value) for name, value in facts.items()})
    onnx.save(model, str(path))
