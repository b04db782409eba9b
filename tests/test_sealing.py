"""Sealing makes a whole release or none; equal content has an equal id."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.releases.manifest import MANIFEST, ReleaseError
from pipeline.releases.release import measure_digests, open_release, seal
from tests.killing import survives
from tests.tiny_release import FILES, calibrate, facts, files_of, make_candidate, make_release


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    return make_release(tmp_path / "candidate").folder


def test_equal_content_has_an_equal_id_wherever_and_whenever_it_is_sealed(tmp_path, monkeypatch):
    first = make_release(tmp_path / "first")
    monkeypatch.setattr(time, "time", lambda: 2e9)
    second = make_release(tmp_path / "second")
    assert second.id == first.id
    assert files_of(first.folder) == files_of(second.folder)


@pytest.mark.parametrize("name", [name for name in FILES if name != "index/0.faiss"])
def test_a_candidate_without_one_of_its_files_is_not_sealed(tmp_path, name):
    candidate = make_candidate(tmp_path / "candidate")
    (candidate / name).unlink()
    with pytest.raises(ReleaseError, match=f"cannot be sealed: {name} is missing"):
        seal(candidate, facts())
    assert not (candidate / MANIFEST).exists()


@pytest.mark.parametrize("name", [".DS_Store", "index/.0.faiss.partial", "a\\b"])
def test_a_candidate_with_a_stray_file_is_not_sealed(tmp_path, name):
    candidate = make_candidate(tmp_path / "candidate")
    (candidate / name).write_bytes(b"")
    with pytest.raises(ReleaseError, match="cannot be the path"):
        seal(candidate, facts())


def test_a_candidate_whose_model_changed_after_calibration_is_not_sealed(tmp_path):
    candidate = make_candidate(tmp_path / "candidate")
    (candidate / "model.onnx").write_bytes(b"retrained")
    with pytest.raises(ReleaseError, match=r"cannot be sealed: .*measured with model"):
        seal(candidate, facts())
    calibrate(candidate)
    open_release(seal(candidate, facts()).folder)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"threshold": np.float32(0.42)}, "threshold 0.40.*the manifest says 0.41"),
        ({"dimension": 5}, r"gallery.npy: shape \(3, 4\), expected \(n, 5\)"),
        ({"recipe": {"rate": float("nan")}}, "cannot be written as JSON"),
        ({"recipe": {"path": Path()}}, "cannot be written as JSON"),
    ],
)
def test_facts_that_do_not_fit_the_candidate_are_not_sealed(tmp_path, changed, expected):
    with pytest.raises(ReleaseError, match=f"cannot be sealed: .*{expected}"):
        seal(make_candidate(tmp_path / "candidate"), facts(**changed))


def test_a_gallery_that_is_no_array_is_not_sealed(tmp_path):
    candidate = make_candidate(tmp_path / "candidate")
    (candidate / "gallery.npy").write_bytes(b"vectors")
    calibrate(candidate)
    with pytest.raises(ReleaseError, match=r"gallery\.npy: no NumPy array"):
        seal(candidate, facts())


def test_digests_cannot_be_measured_before_the_files_are_there(tmp_path):
    with pytest.raises(ReleaseError, match=r"model\.onnx: missing"):
        measure_digests(tmp_path)


def test_a_release_in_a_store_is_never_sealed_again(sealed):
    release = open_release(sealed)
    stored = sealed.rename(sealed.with_name(release.id12))
    with pytest.raises(ReleaseError, match="a release never changes"):
        seal(stored, facts(git_commit="1" * 40))
    assert open_release(stored).id == release.id


def test_a_candidate_can_be_sealed_again_after_a_change(sealed):
    before = open_release(sealed).id
    (sealed / "report.html").write_text("<h1>another</h1>")
    assert seal(sealed, facts()).id != before
    open_release(sealed)


def test_every_file_and_folder_is_on_disk_before_the_manifest_appears(tmp_path, monkeypatch):
    candidate = make_candidate(tmp_path / "candidate")
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def recorded_fsync(descriptor: int) -> None:
        order.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def recorded_replace(path: Path, target: Path) -> Path:
        order.append("appears")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    seal(candidate, facts())
    before = set(order[: order.index("appears")])
    names = [*FILES, "", "index", f".{MANIFEST}.partial"]
    assert before == {str(candidate / name) for name in names}
    assert order[-1] == str(candidate)


def test_sealing_killed_at_any_request_leaves_a_candidate_or_the_whole_release(tmp_path):
    expected = make_release(tmp_path / "undisturbed").id
    original = make_candidate(tmp_path / "original")
    half = 0
    for requests in range(1000):
        candidate = tmp_path / "candidate"
        shutil.copytree(original, candidate)
        done = survives(lambda where=candidate: seal(where, facts()), requests)
        if (candidate / MANIFEST).exists():
            assert open_release(candidate).id == expected
        else:
            half += 1
            assert not done
            with pytest.raises(ReleaseError, match="a candidate, not a release"):
                open_release(candidate)
            assert seal(candidate, facts()).id == expected  # the same command resumes
            assert open_release(candidate).id == expected
        shutil.rmtree(candidate)
        if done:
            break
    assert done
    assert half > 20
