"""Image queries: what ONNX Runtime gains over torch, what a query costs, and whether it waits.

    .venv/bin/python -m benchmarks.images                          # both backbones, 3 minutes
    .venv/bin/python -m benchmarks.images --backbones cnn --images 256

Embedding: the same network and pixels, alone and in 32s, by ONNX Runtime (what a release serves
with) and by torch as it is trained, in turn, in one run; one thread each; the best of several
rounds. A query: an image of the icons table is decoded, embedded and searched for among the
embeddings of the others, each part timed by itself. Waiting: the same query through the threads
of a server that has nothing else to do, less the same call without them. A server does not hold
a request back to join it with others: only the images of one request are embedded together.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.search.data import in_order
from jobs.datasets import build_icons
from pipeline import distance
from pipeline.config import IndexConfig
from pipeline.encoding.batching import LARGEST, probe
from pipeline.encoding.encoder import Encoder
from pipeline.encoding.export import add_facts, export_onnx
from pipeline.models.config import ModelConfig
from pipeline.models.registry import EmbeddingModel, build_model
from pipeline.search.gallery import open_gallery
from pipeline.search.index import Index, build_index, open_index
from serving.access.fair import FairThreads

BACKBONES = {
    "cnn": ModelConfig(),
    "efficientnet_lite0": ModelConfig(
        backbone="efficientnet_lite0", weights="pretrained", image_size=64
    ),
}
"""As in the recipes; the time does not depend on the weights."""
ICONS = Path(build_icons.__file__).with_name("icons.parquet")
MATCHES = 10
ROUNDS = 5
IDLE = 300
"""Queries that come alone."""


def best(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each call, the best of the rounds; the calls take turns."""
    seconds = dict.fromkeys(calls, math.inf)
    for call in calls.values():
        call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            seconds[name] = min(seconds[name], time.perf_counter() - begun)
    return seconds


def embedding(model: EmbeddingModel, encoder: Encoder, pixels: NDArray[np.uint8]) -> None:
    """Print images a second, by torch and by ONNX Runtime."""

    def eager(size: int) -> None:
        with torch.inference_mode():
            for start in range(0, len(pixels), size):
                model(torch.from_numpy(pixels[start : start + size])).numpy()

    def exported(size: int) -> None:
        for start in range(0, len(pixels), size):
            encoder.embed_steadily(pixels[start : start + size])

    taken = best({
        "torch alone": lambda: eager(1), "onnx alone": lambda: exported(1),
        "torch in 32s": lambda: eager(32), "onnx in 32s": lambda: exported(32),
    })  # fmt: skip
    for size, target in (("alone", "no target"), ("in 32s", "1.3")):
        torch_s, onnx_s = taken[f"torch {size}"], taken[f"onnx {size}"]
        rates = [f"{len(pixels) / seconds:.0f} /s" for seconds in (onnx_s, torch_s)]
        print(f"  embedding {size}: ONNX Runtime {rates[0]}, torch eager {rates[1]}: "
              f"{torch_s / onnx_s:.2f} x ({target})", flush=True)  # fmt: skip


def indexed(encoder: Encoder, stored: list[bytes], folder: Path) -> tuple[Index, np.float32]:
    """An index of the embeddings of these images, and a threshold of some matches a query."""
    pixels = np.stack([encoder.decode(data) for data in stored])
    vectors = encoder.embed_steadily(pixels)
    in_order(vectors).write(folder)
    gallery = open_gallery(folder)
    sample = distance.deciding(vectors[:100], vectors)
    threshold = np.float32(np.quantile(sample, MATCHES / len(vectors)))
    build_index(gallery, IndexConfig(), folder, horizon=float(threshold))
    return open_index(folder, gallery), threshold


def query_parts(
    encoder: Encoder, index: Index, threshold: np.float32, asked: list[bytes], size: int
) -> None:
    """Print the milliseconds of each part of an image query, ``size`` at a time."""
    pixels = np.stack([encoder.decode(data) for data in asked])
    vectors = encoder.embed_steadily(pixels)
    starts = range(0, len(asked), size)
    taken = best({
        "decode": lambda: [encoder.decode(data) for data in asked],
        "embed": lambda: [encoder.embed_steadily(pixels[at : at + size]) for at in starts],
        "search": lambda: [
            index.search_batch("one", vectors[at : at + size], threshold) for at in starts],
    })  # fmt: skip
    each = {name: 1e3 * seconds / len(asked) for name, seconds in taken.items()}
    parts = ", ".join(f"{name} {value:.3f}" for name, value in each.items())
    whole = sum(each.values())
    print(f"  a query {'alone' if size == 1 else f'in {size}s'}, ms: {parts}; in all {whole:.3f}, "
          f"{1e3 / whole:.0f} /s", flush=True)  # fmt: skip


def waiting(encoder: Encoder, index: Index, threshold: np.float32, asked: list[bytes]) -> None:
    """Print what the threads of an idle server add to a query that comes alone."""

    def answer(data: bytes) -> float:
        """Seconds that the work itself takes."""
        begun = time.perf_counter()
        vectors = encoder.embed_steadily(encoder.decode(data)[None])
        index.search_batch("one", vectors, threshold)
        return time.perf_counter() - begun

    threads = FairThreads(1, 1)
    whole, added = np.empty(IDLE), np.empty(IDLE)
    for k in range(IDLE):
        data = asked[k % len(asked)]
        time.sleep(0.002)  # idle
        begun = time.perf_counter()
        work = threads.submit("one", partial(answer, data)).result()
        whole[k] = time.perf_counter() - begun
        added[k] = whole[k] - work
    for name, seconds in (("an image request alone", whole), ("of which waited", added)):
        middle, late = 1e3 * np.quantile(seconds, [0.5, 0.99])
        print(f"  {name}: p50 {middle:.3f} ms, p99 {late:.3f} ms")
    print("  waiting when idle: at most 2 ms", flush=True)


def main() -> None:
    """Each backbone in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", default=",".join(BACKBONES))
    parser.add_argument("--images", type=int, default=320, help="that are embedded and ask")
    parser.add_argument("--stored", type=int, default=8000, help="images that are searched")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = pq.read_table(ICONS, columns=["image"])["image"].to_pylist()
    order = np.random.default_rng(0).permutation(len(images))[: args.images + args.stored]
    asked = [images[k] for k in order[: args.images]]
    stored = [images[k] for k in order[args.images :]]
    for name in args.backbones.split(","):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            model = build_model(BACKBONES[name], kind="image").eval()
            export_onnx(model, path)
            encoder = Encoder(path)
            pixels = np.stack([encoder.decode(data) for data in asked])
            add_facts(path, probe(encoder, pixels[:LARGEST]).facts())
            encoder = Encoder(path)
            print(f"{name}, {encoder.image_size} px, {encoder.dimension} dimensions, "
                  f"{len(stored):,} images stored", flush=True)  # fmt: skip
            embedding(model, encoder, pixels)
            index, threshold = indexed(encoder, stored, Path(folder))
            for size in (1, 32):
                query_parts(encoder, index, threshold, asked, size)
            waiting(encoder, index, threshold, asked)


if __name__ == "__main__":
    main()
