"""Nothing that was changed after sealing opens."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.releases.manifest import MANIFEST, ReleaseError
from pipeline.releases.release import Release, open_release
from tests.tiny_release import FILES, edit, facts, files_of, make_release


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """A release in a folder named by its id, as a store keeps it."""
    made = make_release(tmp_path / "candidate")
    made.folder.rename(tmp_path / made.id12)
    return open_release(tmp_path / made.id12)


def flip(path: Path, position: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= bit
    path.write_bytes(data)


def test_the_files_listed_here_are_all_the_files_of_a_release(release):
    assert set(FILES) == release.manifest.files.keys()
    assert {*FILES, MANIFEST} == files_of(release.folder).keys()


def test_a_release_says_what_was_sealed(release):
    assert release.threshold == np.float32(0.41)
    assert release.threshold.dtype == np.float32
    assert release.dimension == 4
    assert release.calibration_range == (0.3, 0.6)
    assert release.calibration["threshold"] == float(np.float32(0.41))
    assert release.counts()["baseline"].groups == ("a", "b")
    assert release.manifest.facts == facts()


def test_the_id_is_the_sha256_of_the_manifest_file(release):
    assert release.id == hashlib.sha256((release.folder / MANIFEST).read_bytes()).hexdigest()
    assert release.folder.name == release.id[:12]


@pytest.mark.parametrize("where", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_in_any_file_is_refused(release, name, where):
    flip(release.folder / name, where)
    with pytest.raises(ReleaseError, match=rf"{name}: sha256 .* the manifest says"):
        open_release(release.folder)


def test_a_bit_flipped_anywhere_in_the_manifest_is_refused(release):
    path = release.folder / MANIFEST
    for position in range(0, path.stat().st_size, 7):
        flip(path, position)
        with pytest.raises(ReleaseError, match=r"manifest\.json: id .* the folder says"):
            open_release(release.folder)
        flip(path, position)
    open_release(release.folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(release, name):
    (release.folder / name).unlink()
    with pytest.raises(ReleaseError, match=f"{name}: missing"):
        open_release(release.folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_or_grown_is_refused(release, name):
    path, whole = release.folder / name, (release.folder / name).read_bytes()
    for data in (whole[:-1], whole + b"\0", b""):
        path.write_bytes(data)
        with pytest.raises(ReleaseError, match=f"{name}: {len(data)} bytes, the manifest says"):
            open_release(release.folder)


@pytest.mark.parametrize("name", ["extra", ".hidden", "index/1.faiss", "index/manifest.json"])
def test_an_added_file_is_refused(release, name):
    (release.folder / name).write_bytes(b"x")
    with pytest.raises(ReleaseError, match=f"{name}: not in the manifest"):
        open_release(release.folder)


def test_a_link_in_place_of_a_file_is_refused_even_where_the_bytes_are_right(release, tmp_path):
    (release.folder / "model.onnx").rename(tmp_path / "elsewhere")
    (release.folder / "model.onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ReleaseError, match=r"model\.onnx: not a plain file"):
        open_release(release.folder)


def test_a_release_renamed_to_another_id_is_refused(release):
    renamed = release.folder.rename(release.folder.with_name("0123456789ab"))
    with pytest.raises(ReleaseError, match=f"id {release.id12}, the folder says 0123456789ab"):
        open_release(renamed)


def test_a_folder_without_a_manifest_is_a_candidate(release):
    (release.folder / MANIFEST).unlink()
    with pytest.raises(ReleaseError, match="a candidate, not a release: seal it first"):
        open_release(release.folder)


def test_a_folder_that_is_not_there_is_no_release(tmp_path):
    with pytest.raises(ReleaseError, match="no such release"):
        open_release(tmp_path / "nothing")


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    return make_release(tmp_path / "candidate").folder


def forge(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and give the manifest its new hash: only the calibration knows."""
    (folder / name).write_bytes(data)
    files = json.loads((folder / MANIFEST).read_bytes())["files"]
    files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    edit(folder / MANIFEST, files=files)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.onnx", "model"),
        ("gallery.npy", "gallery"),
        ("items.parquet", "items"),
        ("index/0.faiss", "index"),
        ("index/index.json", "index"),
        ("index/1.faiss", "index"),
    ],
)
def test_a_calibration_of_something_else_is_refused(sealed, name, part):
    forge(sealed, name, b"not what was measured")
    with pytest.raises(ReleaseError, match=rf"measured with {part} \w+, the folder holds \w+; cal"):
        open_release(sealed)


@pytest.mark.parametrize("text", ["{}", '{"measured_with": {}, "threshold": 0}', "[]", "{"])
def test_a_calibration_that_records_nothing_is_refused(sealed, text):
    forge(sealed, "calibration.json", text.encode())
    with pytest.raises(ReleaseError, match=r"calibration\.json: "):
        open_release(sealed)


def test_nothing_is_parsed_before_all_hashes_are_right(sealed, monkeypatch):
    def parse(*_: object) -> None:
        raise AssertionError("parsed too early")

    monkeypatch.setattr("pipeline.releases.release.parse_object", parse)
    monkeypatch.setattr(np, "load", parse)
    flip(sealed / "report.html", 0)  # the last file in the order of names but one
    with pytest.raises(ReleaseError, match=r"report\.html: sha256"):
        open_release(sealed)
