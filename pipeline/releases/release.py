"""A release: a folder that was sealed whole, and opens only if it still is.

Sealing hashes every file, then writes ``manifest.json`` last and in one step: a folder without
one is a candidate. Opening hashes every file again before any of them is parsed; whoever reads a
release (index, model, counts) does so after ``open_release``. A release also refuses to open when
its calibration was measured through another model, gallery, index or items table than the ones
in the folder: a threshold does not travel without what it was measured with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.canonical import parse_object
from pipeline.counting.operating import OperatingCounts, load_counts
from pipeline.durable import partial_of, sync, write_durably
from pipeline.releases.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    FileEntry,
    Manifest,
    MeasuredWith,
    ReleaseError,
    ReleaseFacts,
    measured_with,
    parse_manifest,
)
from pipeline.releases.signing import PublicKeys, read_signature, require_signature

ID_LENGTH = 12
"""Digits of an id that name a release's folder."""

ID12 = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")
"""Names that only a release's folder may bear."""


@dataclass(frozen=True, slots=True)
class Release:
    """A sealed folder and what its manifest says."""

    folder: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        """sha256 of ``manifest.json``, 64 hexadecimal digits."""
        return self.manifest.id

    @property
    def id12(self) -> str:
        """The first 12 digits of the id: the name of the release's folder in a store."""
        return self.id[:ID_LENGTH]

    @property
    def threshold(self) -> np.float32:
        """The one threshold, a cosine distance."""
        return self.manifest.facts.threshold

    @property
    def dimension(self) -> int:
        """Coordinates of an embedding."""
        return self.manifest.facts.dimension

    @property
    def calibration_range(self) -> tuple[float, float]:
        """Lowest and highest threshold of the calibration range."""
        return self.manifest.facts.calibration_range

    @property
    def calibration(self) -> dict[str, object]:
        """The content of ``calibration.json``."""
        return _calibration(self.folder)

    def counts(self) -> dict[str, OperatingCounts]:
        """The named counts that the calibration was read from."""
        return load_counts(self.folder / "counts.npz")


def measure_digests(candidate: Path) -> dict[str, str]:
    """What a calibration has to record under ``measured_with`` in ``calibration.json``.

    Raises ``ReleaseError`` if the model, the gallery, the items or the index are not there yet.
    """
    names = [name for name in _files_of(candidate) if name.startswith("index/")]
    try:
        files = {
            name: _hash(candidate / name)
            for name in ("model.onnx", "gallery.npy", "items.parquet", *names)
        }
    except FileNotFoundError as error:
        raise ReleaseError(f"{error.filename}: missing; it is measured by a calibration") from None
    return dataclasses.asdict(measured_with(files))


def seal(candidate: Path, facts: ReleaseFacts) -> Release:
    """Turn a candidate into a release; the same content always gives the same id.

    Killed at any moment, it leaves a candidate or a release. An earlier seal of a candidate is
    replaced; a release in a store, whose folder bears its id, is never sealed again. Raises
    ``ReleaseError`` for missing files, and for a calibration of something else.
    """
    if ID12.fullmatch(candidate.resolve().name):
        raise ReleaseError(f"{candidate}: a release never changes; seal a candidate folder")
    partial_of(candidate / MANIFEST).unlink(missing_ok=True)
    partial_of(candidate / SIGNATURE).unlink(missing_ok=True)
    files = {}
    for name in _files_of(candidate):
        files[name] = _hash(candidate / name)
        sync(candidate / name)
    try:
        manifest = Manifest(facts, files)
        _require_calibration(candidate, manifest)
        _require_dimension(candidate, facts.dimension)
        text = manifest.to_bytes()
    except ReleaseError as error:
        raise ReleaseError(f"{candidate}: cannot be sealed: {error}") from None
    for folder in {(candidate / name).parent for name in files}:
        sync(folder)
    (candidate / SIGNATURE).unlink(missing_ok=True)  # of what an earlier seal made
    write_durably(candidate / MANIFEST, text)
    return Release(candidate, manifest)


def open_release(folder: Path, *, verify: bool = True, keys: PublicKeys | None = None) -> Release:
    """The release in ``folder``, its every byte checked against the manifest.

    A folder named by 12 hexadecimal digits must bear the id of its own manifest. ``verify=False``
    reads the manifest alone: for a folder that this process has verified before, never for one
    that came from elsewhere. ``keys``: one of them must have signed the manifest, which is
    checked before a byte of it is parsed. Raises ``ReleaseError`` with one line.
    """
    path = folder / MANIFEST
    data = _manifest_bytes(path)
    if keys is not None:
        require_signature(folder, data, keys)
    name = folder.resolve().name
    actual = hashlib.sha256(data).hexdigest()[:ID_LENGTH]
    if ID12.fullmatch(name) and name != actual:
        raise ReleaseError(
            f"{path}: id {actual}, the folder says {name}; the folder was renamed or the "
            "manifest was changed: fetch the release again"
        )
    release = Release(folder, parse_manifest(data, str(path)))
    if verify:
        _require_files(folder, release.manifest)
        _require_calibration(folder, release.manifest)
    return release


def _manifest_bytes(path: Path) -> bytes:
    try:
        if path.is_symlink() or path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ReleaseError(f"{path}: expected a file of at most {MAX_MANIFEST_BYTES} bytes")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        there = path.parent.is_dir()
        what = "a candidate, not a release: seal it first" if there else "no such release"
        raise ReleaseError(f"{path.parent}: no {MANIFEST}; {what}") from None
    except IsADirectoryError:
        raise ReleaseError(f"{path}: expected a file, found a folder") from None


def _require_files(folder: Path, manifest: Manifest) -> None:
    """Names first, then sizes, then hashes; nothing is parsed."""
    read_signature(folder)
    present = set(_files_of(folder))
    for name in sorted(manifest.files.keys() - present):
        raise ReleaseError(f"{folder / name}: missing; the manifest lists it: fetch it again")
    for name in sorted(present - manifest.files.keys()):
        raise ReleaseError(f"{folder / name}: not in the manifest; remove it or seal again")
    for name, expected in sorted(manifest.files.items()):
        size = (folder / name).stat().st_size
        if size != expected.size:
            raise ReleaseError(
                f"{folder / name}: {size} bytes, the manifest says {expected.size}: fetch it again"
            )
    for name, expected in sorted(manifest.files.items()):
        actual = _hash(folder / name).sha256
        if actual != expected.sha256:
            raise ReleaseError(
                f"{folder / name}: sha256 {actual[:12]}, the manifest says "
                f"{expected.sha256[:12]}: fetch it again"
            )


def _require_calibration(folder: Path, manifest: Manifest) -> None:
    """``calibration.json`` has this threshold and was measured through these files."""
    path = folder / "calibration.json"
    calibration = _calibration(folder)
    recorded = calibration.get("measured_with")
    if not isinstance(recorded, dict):
        raise ReleaseError(f"{path}: 'measured_with' is missing; calibrate again")
    for field in dataclasses.fields(MeasuredWith):
        expected = getattr(manifest.measured_with, field.name)
        if recorded.get(field.name) != expected:
            raise ReleaseError(
                f"{path}: measured with {field.name} {str(recorded.get(field.name))[:12]}, "
                f"the folder holds {expected[:12]}; calibrate again"
            )
    if calibration.get("threshold") != float(manifest.facts.threshold):
        raise ReleaseError(
            f"{path}: threshold {calibration.get('threshold')}, the manifest says "
            f"{float(manifest.facts.threshold)}; calibrate again"
        )


def _calibration(folder: Path) -> dict[str, object]:
    path = folder / "calibration.json"
    try:
        return parse_object(path.read_bytes())
    except ValueError as error:
        raise ReleaseError(f"{path}: {error}") from None


def _require_dimension(folder: Path, dimension: int) -> None:
    try:
        shape = np.load(folder / "gallery.npy", mmap_mode="r", allow_pickle=False).shape
    except ValueError as error:
        raise ReleaseError(f"gallery.npy: no NumPy array: {error}") from None
    if len(shape) != 2 or shape[1] != dimension:
        raise ReleaseError(f"gallery.npy: shape {shape}, expected (n, {dimension})")


def _files_of(folder: Path) -> Iterator[str]:
    """Paths of the files below ``folder``, sorted, but for the manifest and its signature.

    Raises ``ReleaseError`` for what is no plain file.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ReleaseError(f"{path}: not a plain file; a release holds no links and no devices")
        if path.is_file() and name not in (MANIFEST, SIGNATURE):
            yield name


def _hash(path: Path) -> FileEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(digest, os.fstat(file.fileno()).st_size)
