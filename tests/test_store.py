"""The store hands out whole releases by id, beginning of an id, or alias."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.releases.aliases import AliasMovedError, Change, StoreError
from pipeline.releases.manifest import MANIFEST, ReleaseError
from pipeline.releases.release import open_release
from pipeline.releases.store import Store
from tests.tiny_release import files_of, make_candidate, make_release


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it wrote; only a loss of power needs fsync."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(params=["folder", "file://", "memory://"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory://":
        return Store(f"memory://{tmp_path.name}/store", cache=tmp_path / "cache")
    prefix = "file://" if request.param == "file://" else ""
    return Store(f"{prefix}{tmp_path}/store")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [make_release(tmp_path / f"run{i}", variant=i).folder for i in range(3)]


def test_what_was_added_comes_back_whole_under_its_id(store, folders):
    release = store.add(folders[0])
    assert release == open_release(folders[0]).id
    assert store.releases() == (release[:12],)
    assert store.path(release).name == release[:12]
    assert files_of(store.path(release)) == files_of(folders[0])


def test_adding_twice_changes_nothing(store, folders):
    first = store.add(folders[0])
    before = {path: path.stat().st_mtime_ns for path in store.path(first).rglob("*")}
    assert store.add(folders[0]) == first
    assert {path: path.stat().st_mtime_ns for path in store.path(first).rglob("*")} == before
    assert store.releases() == (first[:12],)


def test_a_candidate_or_a_damaged_release_is_not_added(store, folders, tmp_path):
    with pytest.raises(ReleaseError, match="a candidate, not a release"):
        store.add(make_candidate(tmp_path / "candidate"))
    (folders[0] / "model.onnx").write_bytes(b"the network." * 20)
    with pytest.raises(ReleaseError, match=r"model\.onnx: sha256"):
        store.add(folders[0])
    assert store.releases() == ()


def test_an_empty_store_says_what_it_does_not_hold(store, tmp_path):
    assert (store.releases(), store.aliases(), store.history("production")) == ((), {}, ())
    with pytest.raises(StoreError, match="no alias or release 'production'; aliases: none; rel"):
        store.path("production")
    with pytest.raises(StoreError, match=r"no store yet|no alias 'production'"):
        store.rollback("production")
    assert not (tmp_path / "store").exists()


def test_a_release_is_called_by_alias_by_id_or_by_the_beginning_of_its_id(store, folders):
    release = store.add(folders[0])
    other = store.add(folders[1])
    store.promote("production", release)
    for name in ("production", release, release[:12], release[:20], release[:4]):
        assert store.open(name).id == release
    for name in (release[:3], release[:11] + "g", release[:20] + "0" * 44, other + "0", "../x", ""):
        with pytest.raises(StoreError, match=r"no alias or release|is not the|is short"):
            store.path(name)


def test_too_short_a_beginning_says_how_many_digits_it_takes(store, folders):
    release = store.add(folders[0])
    with pytest.raises(StoreError, match="give at least 4 digits"):
        store.open(release[:3])


def test_what_promoting_would_refuse_is_refused_before_the_work(store, tmp_path):
    store.require_writable("production")
    assert store.releases() == ()
    assert store.aliases() == {}
    with pytest.raises(StoreError, match="alias 'a b': expected at most"):
        store.require_writable("a b")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="file: cannot be written: Not a directory"):
        Store(str(tmp_path / "file")).require_writable("production")


def test_an_ambiguous_beginning_names_the_candidates(tmp_path):
    store = Store(str(tmp_path))
    for name in ("abcd00000000", "abcd11111111"):
        (tmp_path / "releases" / name).mkdir(parents=True)
        (tmp_path / "releases" / name / MANIFEST).touch()
    with pytest.raises(StoreError, match="'abcd' could be abcd00000000 or abcd11111111; give more"):
        store.path("abcd")


def test_promotions_and_rollbacks_move_the_alias_and_stay_in_its_history(store, folders):
    a, b, c = (store.add(folder) for folder in folders)
    for name in (a, b[:12], c[:6]):
        store.promote("production", name)
    store.promote("canary", "production")
    assert store.aliases() == {"canary": c, "production": c}
    assert store.rollback("production") == b
    assert store.rollback("production") == a
    with pytest.raises(StoreError, match="nothing to roll back to"):
        store.rollback("production")
    store.promote("production", c)
    assert store.rollback("production") == a
    actions = [(change.action, change.release) for change in store.history("production")]
    assert actions == [
        ("promote", a), ("promote", b), ("promote", c),
        ("rollback", b), ("rollback", a), ("promote", c), ("rollback", a),
    ]  # fmt: skip
    assert store.aliases() == {"canary": c, "production": a}


def test_promoting_what_is_promoted_already_writes_no_history(store, folders):
    a, b = store.add(folders[0]), store.add(folders[1])
    for name in (a, b, b):
        store.promote("production", name)
    assert len(store.history("production")) == 2
    assert store.rollback("production") == a


def test_an_alias_that_was_moved_meanwhile_is_not_moved_again(store, folders):
    a, b, c = (store.add(folder) for folder in folders)
    assert store.promote("production", a, expected="") == a
    for move in (
        lambda expected: store.promote("production", b, expected=expected),
        lambda expected: store.rollback("production", expected=expected),
    ):
        for expected in ("", c):
            with pytest.raises(AliasMovedError, match=f"means {a[:12]}, no longer"):
                move(expected)
    assert store.history("production") == (Change("promote", a),)
    store.promote("production", b, expected=a)
    assert store.rollback("production", expected=b) == a
    with pytest.raises(AliasMovedError, match="it means nothing"):
        store.promote("canary", a, expected=b)
    assert list(store.aliases()) == ["production"]


def test_a_book_changed_by_another_is_read_again(store, folders):
    a, b, _ = (store.add(folder) for folder in folders)
    other = Store(store.url)
    for name in (a, b, a):
        other.promote("production", name)
        assert store.aliases() == {"production": name}


def test_only_a_whole_release_is_promoted_or_rolled_back_to(tmp_path, folders):
    store = Store(str(tmp_path / "store"))
    a, b = store.add(folders[0]), store.add(folders[1])
    store.promote("production", a)
    store.promote("production", b)
    (tmp_path / "store" / "releases" / a[:12] / "report.html").write_text("<h1>retort</h1>")
    with pytest.raises(ReleaseError, match=r"report\.html: sha256"):
        store.rollback("production")
    with pytest.raises(ReleaseError, match=r"report\.html: sha256"):
        store.promote("canary", a)
    with pytest.raises(StoreError, match="no alias or release 'dddd'"):
        store.promote("canary", "dddd")
    assert store.aliases() == {"production": b}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"schema": "limen-aliases/2"}'])
def test_an_unreadable_book_is_refused_and_not_overwritten(tmp_path, folders, data):
    store = Store(str(tmp_path / "store"))
    release = store.add(folders[0])
    (tmp_path / "store" / "aliases.json").write_bytes(data)
    with pytest.raises(StoreError, match=r"aliases\.json: "):
        store.promote("production", release)
    assert (tmp_path / "store" / "aliases.json").read_bytes() == data
