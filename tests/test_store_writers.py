"""The store loses nothing, whoever else writes and whenever a writer is killed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from pipeline.releases.store import Store
from tests.killing import survives
from tests.tiny_release import files_of, make_release


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it wrote; only a loss of power needs fsync."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [make_release(tmp_path / f"run{i}", variant=i).folder for i in range(3)]


WRITERS, EACH = 4, 4


def _promote_some(url: str, names: list[str], barrier: multiprocessing.synchronize.Barrier) -> None:
    store = Store(url)
    barrier.wait()
    for name in names:
        store.promote("production", name)


def test_concurrent_promotions_lose_nothing(tmp_path):
    store = Store(str(tmp_path / "store"))
    names = []
    for i in range(WRITERS * EACH):
        names.append(store.add(make_release(tmp_path / f"run{i}", variant=i).folder))
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(WRITERS)
    writers = [
        context.Process(target=_promote_some, args=(store.url, names[i::WRITERS], barrier))
        for i in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    promoted = [change.release for change in store.history("production")]
    assert sorted(promoted) == sorted(names)
    for i in range(WRITERS):  # and each writer's own order is kept
        assert [name for name in promoted if name in names[i::WRITERS]] == names[i::WRITERS]


def test_concurrent_adds_of_one_release_leave_one_whole_copy(tmp_path, folders):
    store = Store(str(tmp_path / "store"))
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            os._exit(0 if store.add(folders[0]) else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]
    assert files_of(store.path(store.releases()[0])) == files_of(folders[0])
    assert len(list((tmp_path / "store" / "releases").iterdir())) == 1


def test_adding_killed_at_any_request_publishes_nothing_or_everything(tmp_path, folders):
    store = Store(str(tmp_path / "store"))
    for requests in range(1000):
        done = survives(lambda: store.add(folders[0]), requests)
        for name in store.releases():
            assert files_of(store.path(name)) == files_of(folders[0])
        release = store.add(folders[0])  # the same command resumes
        assert store.open(release).id == release
        assert [path.name for path in (tmp_path / "store/releases").iterdir()] == [release[:12]]
        shutil.rmtree(tmp_path / "store")
        if done:
            break
    assert done
    assert requests > 50


def test_promoting_killed_at_any_request_leaves_the_old_alias_or_the_new(tmp_path, folders):
    store = Store(str(tmp_path / "store"))
    a, b = store.add(folders[0]), store.add(folders[1])
    store.promote("production", a)
    before = (tmp_path / "store/aliases.json").read_bytes()
    seen = set()
    for requests in range(1000):
        done = survives(lambda: store.promote("production", b), requests)
        seen.add(store.aliases()["production"])
        assert store.aliases()["production"] in (a, b)
        store.promote("production", b)  # no lock is left behind
        assert store.aliases() == {"production": b}
        assert len(store.history("production")) == 2
        (tmp_path / "store/aliases.json").write_bytes(before)
        if done:
            break
    assert done
    assert seen == {a, b}
