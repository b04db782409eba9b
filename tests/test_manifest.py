"""A manifest defends itself: any other text than the one that was sealed is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from pipeline.releases.manifest import MANIFEST, Manifest, ReleaseError, parse_manifest
from pipeline.releases.release import open_release
from tests.tiny_release import edit, facts, make_release


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    return make_release(tmp_path / "candidate").folder


def refused(folder: Path, expected: str) -> str:
    with pytest.raises(ReleaseError, match=expected) as error:
        open_release(folder)
    return str(error.value)


def test_a_changed_threshold_is_refused(sealed):
    other = float(np.float32(0.5))
    edit(sealed / MANIFEST, threshold={"hex": other.hex(), "value": other})
    with pytest.raises(ReleaseError, match=r"calibration\.json: threshold 0\.40\d+, the"):
        open_release(sealed)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"threshold": {"hex": "0x1.0p-1", "value": float(np.float32(0.41))}}, "canonical"),
        ({"threshold": {"hex": (0.41).hex(), "value": 0.41}}, "0.41 is no float32"),
        ({"threshold": {"hex": "inf", "value": float("inf")}}, "Infinity is no JSON"),
        ({"threshold": {"hex": "x", "value": 1e300}}, r"no float32 in \[0, 2\]"),
        ({"threshold": 0.41}, "'threshold': expected dict, got float"),
        ({"calibration_range": [0.5, 0.6]}, "does not hold the threshold"),
        ({"calibration_range": [0.3, 1e300]}, "no range of distances"),
        ({"calibration_range": [0.3]}, "expected two numbers"),
        ({"dimension": True}, "'dimension': expected int, got bool"),
        ({"dimension": 0}, "dimension: expected at least 1"),
        ({"schema": "limen-release/2"}, "this version reads 'limen-release/1'"),
        ({"signature": "none"}, "canonical"),
        ({"data_digest": "AB" * 32}, "no sha256"),
        ({"versions": {"numpy": 2}}, "versions: expected a text"),
        ({"files": {}}, r"model\.onnx is missing"),
        ({"files": {"model.onnx": 3}}, "'model.onnx' needs a sha256"),
        ({"guarantee": "\ud800"}, "surrogates not allowed"),
    ],
)
def test_an_edited_manifest_is_refused(sealed, changed, expected):
    path = sealed / MANIFEST
    document = json.loads(path.read_bytes()) | changed
    text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii="guarantee" in changed)
    path.write_text(text + "\n")
    with warnings.catch_warnings(action="error"):
        error = refused(sealed, expected)
    assert str(path) in error
    assert "\n" not in error


@pytest.mark.parametrize(
    "name",
    ["../model.onnx", "/etc/passwd", "index/../../x", "a\\b", "a//b", "", ".", "a/.b", "a\nb"],
)
def test_a_path_that_leads_out_of_the_release_is_refused(sealed, name):
    document = json.loads((sealed / MANIFEST).read_bytes())
    edit(sealed / MANIFEST, files=document["files"] | {name: document["files"]["model.onnx"]})
    with pytest.raises(ReleaseError, match="cannot be the path of a release's file"):
        open_release(sealed)


def test_a_manifest_cut_anywhere_is_refused(sealed):
    whole = (sealed / MANIFEST).read_bytes()
    for length in range(len(whole)):
        with pytest.raises(ReleaseError, match=r"not JSON, or cut short|canonical"):
            parse_manifest(whole[:length], "manifest.json")


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: text + "\n",
        lambda text: json.dumps(json.loads(text), sort_keys=True),
        lambda text: json.dumps(dict(reversed(json.loads(text).items())), indent=2) + "\n",
        lambda text: text.replace("{", '{\n  "rule": "another",', 1),
        lambda text: "\ufeff" + text,
    ],
    ids=["newline", "one line", "order", "doubled key", "byte order mark"],
)
def test_the_same_manifest_in_another_form_is_refused(sealed, rewrite):
    path = sealed / MANIFEST
    path.write_text(rewrite(path.read_text()))
    with pytest.raises(ReleaseError, match=r"canonical|not JSON"):
        open_release(sealed)


@pytest.mark.parametrize("text", ["[]", "1", "null", "", "[" * 100_000, '{"a": NaN}', "\xff"])
def test_a_manifest_that_is_no_json_object_is_refused(sealed, text):
    (sealed / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(ReleaseError, match=r"manifest\.json: (not JSON|expected a JSON object)"):
        open_release(sealed)


def test_the_order_of_keys_and_files_does_not_move_the_id(sealed):
    manifest = open_release(sealed).manifest
    backwards = dict(reversed(manifest.files.items()))
    recipe = dict(reversed(manifest.facts.recipe.items()))
    assert Manifest(facts(recipe=recipe), backwards).id == manifest.id


@pytest.mark.parametrize(
    "changed",
    [
        {"threshold": np.nextafter(np.float32(0.41), np.float32(1))},
        {"dimension": 5},
        {"rule": "max_mean_utility"},
        {"calibration_range": (0.3, 0.61)},
        {"guarantee": "none"},
        {"recipe": {}},
        {"git_commit": "1" * 40},
        {"versions": {}},
        {"data_digest": "cd" * 32},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_every_fact_moves_the_id(sealed, changed):
    manifest = open_release(sealed).manifest
    assert Manifest(facts(**changed), manifest.files).id != manifest.id


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"threshold": np.float32("nan")}, "nan is no cosine distance"),
        ({"threshold": np.float32(2.5)}, "2.5 is no cosine distance"),
        ({"calibration_range": (0.42, 0.6)}, "does not hold the threshold"),
        ({"calibration_range": (float("nan"), 0.6)}, "no range of distances"),
    ],
)
def test_impossible_facts_are_refused_at_birth(changed, expected):
    with pytest.raises(ReleaseError, match=expected):
        facts(**changed)
