"""What the study trains and measures on: real items, split by class into seen and unseen ones.

``emoji`` across vendors (customers are Unicode categories, skin tones count as their emoji),
``emoji-tones`` (each skin tone a class of its own, in the split of its emoji), ``icons`` across
icon sets (customers are sets), ``digits`` (the 1,797 handwritten digits that scikit-learn brings,
no customers). Of ten digits no class can be spared to calibrate on: five are trained on and the
other five measured, other five for every seed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import DataConfig
from pipeline.data.images import decode_all
from pipeline.data.items import Items
from pipeline.data.readers import read_items
from pipeline.data.split import assign_splits

DATASETS = Path("jobs/datasets")
_STYLE = ("fluent-high-contrast",)  # the demo's drift: never trained on, never measured


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Items that are in use, with their splits."""

    name: str
    items: Items
    across: str
    """Column whose values differ between vendors or sets; empty: none."""
    digest: str
    """Of the items and their splits."""


WORLDS = ("emoji", "icons", "emoji-tones", "digits")


def world(name: str, seed: int = 0) -> World:
    """A world by name; ``seed`` moves only which digits are unseen."""
    if name == "digits":
        return _world(name, _digits(seed), "")
    if name == "icons":
        return _world(name, _open_world("icons", DataConfig(items="icons.parquet")), "set")
    config = DataConfig(
        items="emoji.parquet", held_out_column="style", held_out_values=_STYLE
    )
    items = _open_world("emoji", config)
    if name == "emoji-tones":
        tones = items.metadata["tone"].to_pylist()
        items = replace(items, label=_strings(
            [f"{label} {tone}".strip() for label, tone in zip(items.label, tones, strict=True)]
        ))
    return _world(name, items, "vendor")


def pixels_of(world: World, size: int, scratch: Path) -> NDArray[np.generic]:
    """What a network takes, aligned with the items: (n, size, size, 3) uint8, or vectors."""
    if world.items.kind == "vector":
        return np.asarray(world.items.content)
    path = scratch / f"{world.digest[:12]}-{size}.npy"
    if path.exists():
        stored: NDArray[np.uint8] = np.load(path, mmap_mode="r")
        return stored
    return decode_all(world.items, size, source=world.name, into=path)[1]


def _world(name: str, items: Items, across: str) -> World:
    columns = (items.item_id, items.label, items.split, [one or "" for one in items.customer])
    digest = hashlib.sha256("\n".join("\n".join(column) for column in columns).encode())
    for content in items.content:
        digest.update(content if isinstance(content, bytes) else content.tobytes())
    return World(name, items, across, digest.hexdigest())


def _open_world(name: str, config: DataConfig) -> Items:
    items = assign_splits(read_items(DATASETS / f"{name}.parquet"), config)
    return items.take(np.flatnonzero(items.split != "held_out"))


def _digits(seed: int) -> Items:
    # scikit-learn takes a second to import, and only this world needs it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels, digit = np.asarray(bunch.data, np.float32), np.asarray(bunch.target)
    # Every digit is unseen under one of three seeds at least.
    unseen = np.roll(np.random.default_rng(0).permutation(10), 3 * seed)[:5]
    nothing = np.full(len(digit), None, np.object_)
    return Items(
        item_id=_strings([f"{row:04d}" for row in range(len(digit))]),
        label=_strings([str(value) for value in digit]), customer=nothing,
        role=_strings(["both"] * len(digit)),
        split=_strings(np.where(np.isin(digit, unseen), "report", "train").tolist()),
        kind="vector", content=pixels, metadata=pa.table({}),
    )  # fmt: skip


def _strings(values: list[str]) -> NDArray[np.object_]:
    found = np.empty(len(values), np.object_)
    found[:] = values
    return found
