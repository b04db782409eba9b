"""Features of a network's frozen part on disk, shared by all runs that start from its weights.

``runs/features/DIGEST/00000.npy``, and so on: the digest is of the frozen weights and the items,
a file is a part of the items and there whole or not at all. So an interrupted computation goes
on, and several workers or runs can be at it at once. Nothing removes them: delete the folder
when no run needs it any more.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.durable import sync
from pipeline.models.registry import EmbeddingModel
from pipeline.training.chunks import parts_of
from pipeline.training.collective import Collective
from pipeline.training.features import features_digest, features_of
from pipeline.training.inputs import Inputs, Joined

PART = 512
"""Items in a file."""


def cached_features(
    model: EmbeddingModel, inputs: Inputs, root: Path, device: torch.device, collective: Collective
) -> Joined:
    """(n, ...) features of ``inputs``, memory-mapped; what is not below ``root`` yet is computed.

    Workers divide the parts among them and wait for each other.
    """
    folder = root / features_digest(model, inputs)
    folder.mkdir(parents=True, exist_ok=True)
    model.to(device)
    rows = np.arange(len(inputs))
    parts = parts_of(rows.size, PART)
    paths = [folder / f"{number:05d}.npy" for number in range(len(parts))]
    for number, (path, part) in enumerate(zip(paths, parts, strict=True)):
        if number % collective.size == collective.rank and not path.exists():
            _save(path, features_of(model, inputs, rows[part], device))
    collective.gather(torch.zeros(1, 1, device=device))  # all have done theirs
    return Joined([np.load(path, mmap_mode="r") for path in paths])


def _save(path: Path, features: NDArray[np.float32]) -> None:
    """Another run may write the same part at the same time: each to a file of its own first."""
    # Numbers of processes repeat from machine to machine, and they may share a disk.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    with partial.open("wb") as file:
        np.save(file, features)
    sync(partial)
    partial.replace(path)
