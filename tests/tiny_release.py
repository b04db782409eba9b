"""A candidate of a few kilobytes, with every kind of file that a real one has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pipeline.counting.operating import BUCKETS, Grid, OperatingCounts, save_counts
from pipeline.releases.manifest import ReleaseFacts
from pipeline.releases.release import Release, measure_digests, seal

FILES = (
    "model.onnx",
    "gallery.npy",
    "items.parquet",
    "index/0.faiss",
    "index/index.json",
    "counts.npz",
    "calibration.json",
    "report.html",
)
THRESHOLD = np.float32(0.41)
DIMENSION = 4


def facts(**changed: object) -> ReleaseFacts:
    values: dict[str, object] = {
        "dimension": DIMENSION,
        "threshold": THRESHOLD,
        "rule": "far_target 0.001",
        "calibration_range": (0.3, 0.6),
        "guarantee": "FAR, averaged over the customers, is at most 0.001.",
        "recipe": {"name": "tiny", "train": {"learning_rate": 2e-3, "steps": 10}},
        "git_commit": "0" * 40,
        "versions": {"numpy": "2.4.6"},
        "data_digest": "ab" * 32,
    }
    return ReleaseFacts(**{**values, **changed})  # type: ignore[arg-type]


def make_candidate(folder: Path, *, variant: int = 0) -> Path:
    """Another ``variant`` is another gallery, hence another release."""
    (folder / "index").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"the network " * 20)
    np.save(folder / "gallery.npy", np.full((3, DIMENSION), variant, np.float32))
    (folder / "items.parquet").write_bytes(b"the items")
    (folder / "index" / "0.faiss").write_bytes(b"the index")
    (folder / "index" / "index.json").write_text('{"kind": "flat"}')
    grid = Grid(np.asarray([0.3, THRESHOLD, 0.6], np.float32))
    pairs = np.ones((2, BUCKETS, 2, grid.bins))
    save_counts(folder / "counts.npz", {"baseline": OperatingCounts(grid, ("a", "b"), pairs)})
    (folder / "report.html").write_text("<h1>report</h1>")
    calibrate(folder)
    return folder


def calibrate(folder: Path, **changed: object) -> None:
    document = {"threshold": float(THRESHOLD), "measured_with": measure_digests(folder), **changed}
    (folder / "calibration.json").write_text(json.dumps(document))


def make_release(folder: Path, *, variant: int = 0) -> Release:
    return seal(make_candidate(folder, variant=variant), facts())


def edit(path: Path, **changed: object) -> None:
    """Change a manifest as a careful forger would: in canonical form."""
    document = json.loads(path.read_bytes()) | changed
    path.write_text(json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False) + "\n")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
