"""A small world of vectors that the whole job runs through in seconds."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

RECIPE = """
name = "tiny"
[data]
items = "items.parquet"
[model]
backbone = "mlp"
dimension = 16
width = 32
[loss.tcm]
[train]
steps = {steps}
classes_per_batch = 12
items_per_class = 4
warmup_steps = 2
checkpoint_every = 5
[calibration]
far_target = 0.02
[report]
baseline = {baseline}
across = "source"
"""


def write_items(path: Path, *, classes: int = 60, each: int = 12, seed: int = 0) -> None:
    """Three customers with classes of their own, a few shared and a few unlabelled items."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, 24))
    rows = [(c, i) for c in range(classes) for i in range(each)]
    vectors = [centres[c] + 0.55 * rng.normal(size=24) for c, _ in rows]
    customers = [f"customer {'abc'[c % 3]}" for c, _ in rows]
    table = pa.table({
        "item_id": [f"{c:02d}-{i:02d}" for c, i in rows] + ["shared-0", "mystery-0"],
        "label": [f"class {c:02d}" for c, _ in rows] + [None, None],
        "customer": [*customers, None, "customer a"],
        "role": ["query" if i % 4 == 0 else "both" for _, i in rows] + ["gallery", "both"],
        "vector": pa.array(
            [v.tolist() for v in (*vectors, rng.normal(size=24), rng.normal(size=24))],
            pa.list_(pa.float32()),
        ),
        "source": [f"s{i % 3}" for _, i in rows] + ["s0", "s1"],
    })  # fmt: skip
    pq.write_table(table, path)


def write_recipe(folder: Path, *, steps: int = 40, baseline: bool = True) -> Path:
    """A recipe beside its items."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "items.parquet").exists():
        write_items(folder / "items.parquet")
    path = folder / "tiny.toml"
    path.write_text(RECIPE.format(steps=steps, baseline=str(baseline).lower()))
    return path
