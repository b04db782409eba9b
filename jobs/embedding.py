"""Inputs through the exported model, part by part, so that an interrupted job goes on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from jobs.prepare import save_array
from pipeline.distance import Vectors
from pipeline.encoding.encoder import Encoder

_PART = 2048  # rows between two files: seconds of work that an interruption can cost


def embed(
    model: Path, inputs: NDArray[np.generic], rows: NDArray[np.int64], path: Path, console: Console
) -> Vectors:
    """(n, d) embeddings of ``inputs[rows]`` under the exported ``model``, kept at ``path``.

    What is at ``path`` already, whole or in parts beside it, is not computed again.
    """
    if path.exists():
        kept: Vectors = np.load(path)
        return kept
    encoder = Encoder(model, threads=os.cpu_count() or 1)
    parts = path.with_suffix(".parts")
    parts.mkdir(parents=True, exist_ok=True)
    starts = range(0, rows.size, _PART)
    for start in track(starts, f"Embedding {rows.size:,} items", console=console):
        part = parts / f"{start}.npy"
        if not part.exists():
            save_array(part, encoder.embed(np.asarray(inputs[rows[start : start + _PART]])))
    loaded = [np.load(parts / f"{start}.npy") for start in starts]
    vectors = np.concatenate([np.empty((0, encoder.dimension), np.float32), *loaded])
    save_array(path, vectors)
    shutil.rmtree(parts)
    return vectors
