"""A measured candidate into a sealed, promoted release: how ``run`` and ``reindex`` end."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from rich.console import Console

from pipeline.canonical import parse_object
from pipeline.config import Recipe
from pipeline.releases.manifest import ReleaseFacts
from pipeline.releases.release import Release, seal
from pipeline.releases.signing import configured_key, put_signature
from pipeline.releases.store import Store

_LIBRARIES = (
    "faiss-cpu",
    "faiss-gpu",
    "limen",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "tokenizers",
    "torch",
    "transformers",
)


def seal_and_promote(
    candidate: Path, recipe: Recipe, store: str, alias: str, console: Console
) -> Release:
    """Seal the candidate, keep it in the store and let ``alias`` mean it.

    Signed where ``LIMEN_SIGNING_KEY`` names a key.
    """
    key = configured_key()
    calibration = parse_object((candidate / "calibration.json").read_bytes())
    release = seal(candidate, _facts(candidate, calibration, recipe))
    if key is not None:
        put_signature(candidate, key.sign(release.manifest.to_bytes()))
    shelf = Store(store)
    shelf.add(candidate)
    shelf.promote(alias, release.id)
    sealed = "Sealed" if key is None else "Sealed and signed"
    console.print(f"{sealed} release {release.id12}, kept it in {store}, promoted it to {alias}.")
    return shelf.open(release.id)


def _facts(candidate: Path, calibration: Mapping[str, object], recipe: Recipe) -> ReleaseFacts:
    reach = calibration["range"]
    assert isinstance(reach, dict)
    gallery = np.load(candidate / "gallery.npy", mmap_mode="r", allow_pickle=False)
    return ReleaseFacts(
        dimension=int(gallery.shape[1]),
        threshold=np.float32(str(calibration["threshold"])),
        rule=str(calibration["rule"]),
        calibration_range=(reach["low"], reach["high"]),
        guarantee=str(calibration["guarantee"]),
        recipe=recipe.resolved(),
        git_commit=_git_commit(),
        versions=_versions(),
        data_digest=str(calibration["data_digest"]),
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git_commit() -> str:
    """The commit of this code; ``unknown`` where it is no checkout."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()
