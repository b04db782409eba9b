"""Settings of a server: names resolved once, paths that workers can follow."""

import json

import numpy as np
import pytest

from pipeline.releases.release import ReleaseError
from pipeline.releases.store import Store, StoreError
from pipeline.strict import RecipeError, parse
from serving.assembly import reference_of
from serving.settings import Settings, absolute_records, alias_of, open_named, pinned
from tests.serving_release import THRESHOLD, make_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assembly")
    make_world(folder / "candidate")
    return folder


def test_an_alias_stays_one_and_an_id_is_written_out(folder):
    store = Store(str(folder / "releases"))
    release = store.add(folder / "candidate")
    store.promote("production", release)
    settings = pinned(Settings(release="production", store=str(folder / "releases")))
    assert settings.release == "production"
    assert alias_of(settings) == "production"
    assert open_named(settings).id == release
    assert pinned(settings) == settings
    short = pinned(Settings(release=release[:8], store=str(folder / "releases")))
    assert short.release == release
    assert alias_of(short) is None
    with pytest.raises(StoreError, match="no alias or release 'nothing'"):
        pinned(Settings(release="nothing", store=str(folder / "releases")))


def test_a_folder_is_served_as_it_is_and_verified(folder, tmp_path):
    settings = pinned(Settings(release=str(folder / "candidate")))
    assert open_named(settings).folder == folder / "candidate"
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (folder / "candidate").rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(folder / "candidate")
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    (copy / "counts.npz").write_bytes(b"")
    with pytest.raises(ReleaseError, match=r"counts\.npz"):
        open_named(Settings(release=str(copy)))


def test_a_name_that_nothing_bears_is_refused(tmp_path):
    with pytest.raises(StoreError, match="no alias or release 'staging'"):
        open_named(Settings(release="staging", store=str(tmp_path)))


def test_paths_are_absolute_wherever_a_worker_runs(monkeypatch, folder, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = pinned(Settings(release=str(folder / "candidate")))
    assert settings.keys == str(tmp_path / "keys.json")
    assert settings.records == f"sqlite:///{tmp_path / 'records.db'}"
    for url in ("sqlite:////var/r.db", "postgresql://host/limen", "sqlite:///:memory:"):
        assert absolute_records(url) == url
    remote = Settings(release=str(folder / "candidate"), store="s3://bucket/releases")
    assert pinned(remote).store == "s3://bucket/releases"


def test_a_deployment_file_with_an_unknown_key_is_refused_by_name(folder):
    args = Settings(release="production").to_args()
    assert parse(Settings, json.loads(json.dumps(args)), "args") == Settings(release="production")
    with pytest.raises(RecipeError, match="unknown key 'alias'; known keys: release, store"):
        parse(Settings, {**args, "alias": "x"}, "args")


def test_drift_is_measured_at_edges_of_the_releases_grid(folder):
    reference = reference_of(open_named(Settings(release=str(folder / "candidate"))))
    assert reference.thresholds.size == 101
    assert (reference.thresholds[0], reference.thresholds[-1]) == tuple(
        np.asarray([0.01, 0.25], np.float32)
    )
    reference.baseline.grid.position(reference.thresholds)
    reference.baseline.grid.position(np.asarray([THRESHOLD]))
