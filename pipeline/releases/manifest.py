"""The manifest: what a release is made of, in one canonical text whose sha256 is its id.

Nothing in here touches a disk. The canonical text is JSON with sorted keys, two spaces of
indentation and a final newline, so that ``sha256sum manifest.json`` prints the id; any other
text is refused, even where it means the same. It holds no time, no path and no host name: equal
content has an equal id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pipeline.canonical import canonical_json, parse_object
from pipeline.distance import MAX_DISTANCE

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
"""Beside the manifest and in no manifest: ``pipeline/releases/signing.py``."""
SCHEMA = "limen-release/1"
MAX_MANIFEST_BYTES = 16 * 2**20

REQUIRED = (
    "model.onnx",
    "gallery.npy",
    "items.parquet",
    "index/index.json",
    "counts.npz",
    "calibration.json",
    "report.html",
)
"""Files without which a release cannot answer, or cannot say why it answers so."""

_T = TypeVar("_T")
_MAX = float(MAX_DISTANCE)  # a wider number compared with a float32 would overflow
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"(?!.*(?:^|/)\.)[^\x00-\x1f\\/]+(?:/[^\x00-\x1f\\/]+)*")


class ReleaseError(ValueError):
    """A folder that is no intact release; the message says which file, and why."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a release."""

    sha256: str
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class MeasuredWith:
    """sha256 of everything that a threshold was measured through."""

    model: str
    """Of ``model.onnx``."""
    gallery: str
    """Of ``gallery.npy``."""
    index: str
    """Over the paths and hashes of all files below ``index/``."""
    items: str
    """Of ``items.parquet``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseFacts:
    """What the sealing job knows and the files do not say."""

    dimension: int
    """Coordinates of an embedding."""
    threshold: np.float32
    """The one threshold: a cosine distance in [0, 2]."""
    rule: str
    """How the threshold was chosen."""
    calibration_range: tuple[float, float]
    """Lowest and highest threshold of the calibration range; they contain the threshold."""
    guarantee: str
    """What is promised about the threshold, in one sentence."""
    recipe: Mapping[str, object]
    """The resolved recipe, JSON-ready."""
    git_commit: str
    """Commit of the code that made the release; ``unknown`` outside a repository."""
    versions: Mapping[str, str]
    """Version of each library that took part."""
    data_digest: str
    """sha256 of the items table."""

    def __post_init__(self) -> None:
        """Refuse what no release can have."""
        low, high = self.calibration_range
        if not 0 <= self.threshold <= _MAX:
            raise ReleaseError(f"threshold: {self.threshold} is no cosine distance in [0, 2]")
        if not 0 <= low <= high <= _MAX:
            raise ReleaseError(f"calibration_range: [{low}, {high}] is no range of distances")
        if not np.float32(low) <= self.threshold <= np.float32(high):
            raise ReleaseError(
                f"calibration_range: [{low}, {high}] does not hold the threshold {self.threshold}"
            )
        if self.dimension < 1:
            raise ReleaseError(f"dimension: expected at least 1, got {self.dimension}")
        if not _SHA256.fullmatch(self.data_digest):
            raise ReleaseError(f"data_digest: {self.data_digest!r} is no sha256")
        if not all(isinstance(version, str) for version in self.versions.values()):
            raise ReleaseError("versions: expected a text for each library")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The facts of a release and the hash of every file in it."""

    facts: ReleaseFacts
    files: Mapping[str, FileEntry]
    """By path relative to the release, with forward slashes; without manifest and signature."""

    def __post_init__(self) -> None:
        """Refuse paths that lead out of the release, and hashes that are none."""
        for name, entry in self.files.items():
            if not _PATH.fullmatch(name) or name in (MANIFEST, SIGNATURE):
                raise ReleaseError(f"files: {name!r} cannot be the path of a release's file")
            if not _SHA256.fullmatch(entry.sha256) or entry.size < 0:
                raise ReleaseError(f"files: {name!r} needs a sha256 and a size of 0 or more")
        missing = [name for name in REQUIRED if name not in self.files]
        if missing:
            raise ReleaseError(f"{missing[0]} is missing; expected {', '.join(REQUIRED)}")

    @property
    def measured_with(self) -> MeasuredWith:
        """What the threshold must have been measured through, from the files' own hashes."""
        return measured_with(self.files)

    def to_bytes(self) -> bytes:
        """The canonical text."""
        facts = self.facts
        threshold = float(facts.threshold)
        document: dict[str, object] = {
            "schema": SCHEMA,
            "files": {
                name: {"sha256": entry.sha256, "size": entry.size}
                for name, entry in self.files.items()
            },
            "dimension": facts.dimension,
            "threshold": {"hex": threshold.hex(), "value": threshold},
            "rule": facts.rule,
            "calibration_range": [float(end) for end in facts.calibration_range],
            "guarantee": facts.guarantee,
            "recipe": facts.recipe,
            "git_commit": facts.git_commit,
            "versions": dict(facts.versions),
            "data_digest": facts.data_digest,
        }
        try:
            return canonical_json(document)
        except ValueError as error:
            raise ReleaseError(f"the manifest {error}") from None

    @property
    def id(self) -> str:
        """sha256 of the canonical text, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def measured_with(files: Mapping[str, FileEntry]) -> MeasuredWith:
    """The digests that a calibration records and a release must still have."""
    index = [
        f"{name} {entry.sha256}\n"
        for name, entry in sorted(files.items())
        if name.startswith("index/")
    ]
    return MeasuredWith(
        model=files["model.onnx"].sha256,
        gallery=files["gallery.npy"].sha256,
        index=hashlib.sha256("".join(index).encode()).hexdigest(),
        items=files["items.parquet"].sha256,
    )


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The manifest whose canonical text is ``data``; ``where`` names it in errors.

    Raises ``ReleaseError`` for any other text.
    """
    try:
        manifest = _from_document(parse_object(data))
        canonical = manifest.to_bytes()
    except ValueError as error:
        raise ReleaseError(f"{where}: {error}") from None
    if canonical != data:
        raise ReleaseError(
            f"{where}: not in canonical form (sorted keys, two spaces, no doubled or extra key); "
            "it was edited after sealing: seal the release again"
        )
    return manifest


def _from_document(document: Mapping[str, object]) -> Manifest:
    schema = _take(document, "schema", str)
    if schema != SCHEMA:
        raise ReleaseError(f"schema {schema!r}, this version reads {SCHEMA!r}")
    files: dict[str, FileEntry] = {}
    for name, entry in _take(document, "files", dict).items():
        if not isinstance(entry, dict):
            raise ReleaseError(f"files: {name!r} needs a sha256 and a size")
        files[name] = FileEntry(_take(entry, "sha256", str), _take(entry, "size", int))
    low, high = _pair(_take(document, "calibration_range", list))
    facts = ReleaseFacts(
        dimension=_take(document, "dimension", int),
        threshold=_threshold(_take(document, "threshold", dict)),
        rule=_take(document, "rule", str),
        calibration_range=(low, high),
        guarantee=_take(document, "guarantee", str),
        recipe=_take(document, "recipe", dict),
        git_commit=_take(document, "git_commit", str),
        versions=_take(document, "versions", dict),
        data_digest=_take(document, "data_digest", str),
    )
    return Manifest(facts, files)


def _threshold(entry: Mapping[str, object]) -> np.float32:
    value = _take(entry, "value", float)
    if not 0 <= value <= _MAX or float(np.float32(value)) != value:
        raise ReleaseError(f"threshold: {value!r} is no float32 in [0, 2]")
    return np.float32(value)


def _pair(values: list[object]) -> tuple[float, float]:
    if len(values) != 2 or not isinstance(values[0], float) or not isinstance(values[1], float):
        raise ReleaseError("calibration_range: expected two numbers")
    return values[0], values[1]


def _take(document: Mapping[str, object], key: str, kind: type[_T]) -> _T:
    value = document.get(key)
    if type(value) is not kind:
        raise ReleaseError(f"key {key!r}: expected {kind.__name__}, got {type(value).__name__}")
    return value
