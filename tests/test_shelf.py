"""Object storage has no rename and no lock of its own; the store holds there all the same."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from pipeline.releases.aliases import StoreError
from pipeline.releases.bucket import BucketShelf
from pipeline.releases.manifest import MANIFEST, SIGNATURE, ReleaseError
from pipeline.releases.release import open_release
from pipeline.releases.signing import make_key, read_private_key, read_public_keys
from pipeline.releases.store import Store
from tests.tiny_release import files_of, make_release


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [make_release(tmp_path / f"run{i}", variant=i).folder for i in range(3)]


def test_concurrent_promotions_in_object_storage_lose_nothing(tmp_path):
    store = Store("memory://concurrent", cache=tmp_path / "cache")
    names = [store.add(make_release(tmp_path / f"run{i}", variant=i).folder) for i in range(6)]
    threads = [
        threading.Thread(target=store.promote, args=("production", name)) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(change.release for change in store.history("production")) == sorted(names)
    assert not fsspec.filesystem("memory").exists("/concurrent/aliases.json.lock")


def test_a_lock_left_in_object_storage_is_named_with_its_remedy(tmp_path, folders, monkeypatch):
    monkeypatch.setattr("pipeline.releases.bucket.LOCK_WAIT_S", 0.1)
    store = Store("memory://locked", cache=tmp_path / "cache")
    release = store.add(folders[0])
    fsspec.filesystem("memory").pipe_file("/locked/aliases.json.lock", b"")
    with pytest.raises(StoreError, match=r"aliases\.json\.lock: .* remove this object"):
        store.promote("production", release)


def test_what_was_fetched_once_is_served_from_the_cache(tmp_path, folders):
    store = Store("memory://cached", cache=tmp_path / "cache")
    release = store.add(folders[0])
    assert store.path(release) == tmp_path / "cache" / release[:12]
    memory = fsspec.filesystem("memory")
    memory.rm(f"/cached/releases/{release[:12]}/model.onnx")
    assert store.open(release).id == release


def test_a_damaged_copy_in_the_cache_is_fetched_again(tmp_path, folders):
    store = Store("memory://damaged", cache=tmp_path / "cache")
    release = store.add(folders[0])
    (store.path(release) / "model.onnx").write_bytes(b"")
    assert files_of(store.path(release)) == files_of(folders[0])


@pytest.mark.parametrize("name", ["model.onnx", "index/0.faiss", MANIFEST])
@pytest.mark.parametrize("change", [lambda b: bytes([b[0] ^ 1]) + b[1:], lambda b: b + b"x" * 9])
def test_what_was_changed_in_object_storage_never_reaches_the_cache(
    tmp_path, folders, name, change
):
    store = Store("memory://changed", cache=tmp_path / "cache")
    release = store.add(folders[0])
    memory = fsspec.filesystem("memory")
    path = f"/changed/releases/{release[:12]}/{name}"
    whole = memory.cat_file(path)
    memory.pipe_file(path, change(whole))
    with pytest.raises(ReleaseError, match=f"{name}: (sha256|its id is not)"):
        store.path(release)
    assert [path.name for path in (tmp_path / "cache").iterdir()] in ([], [".lock"])
    memory.pipe_file(path, whole)
    assert store.open(release).id == release


def test_a_file_missing_in_object_storage_is_named(tmp_path, folders):
    store = Store("memory://missing", cache=tmp_path / "cache")
    release = store.add(folders[0])
    fsspec.filesystem("memory").rm(f"/missing/releases/{release[:12]}/gallery.npy")
    with pytest.raises(ReleaseError, match=r"gallery\.npy: missing in the store"):
        store.path(release)


def test_an_upload_that_was_cut_is_no_release_until_it_is_repeated(tmp_path, folders, monkeypatch):
    store = Store("memory://cut", cache=tmp_path / "cache")
    memory = fsspec.filesystem("memory")
    plain = type(memory).open

    def cut(self, path, *args, **kwargs):
        if path.endswith("report.html"):
            raise OSError("connection lost")
        return plain(self, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "open", cut)
        with pytest.raises(OSError, match="connection lost"):
            store.add(folders[0])
    assert memory.find("/cut/releases")
    assert store.releases() == ()
    assert store.open(store.add(folders[0])).id == open_release(folders[0]).id


def test_processes_that_fetch_a_signed_release_at_once_all_get_it(tmp_path, folders):
    make_key(tmp_path / "key.pem")
    keys = read_public_keys([tmp_path / "key.pem.pub"])
    options = {"cache": tmp_path / "cache", "keys": keys}
    store = Store("memory://at-once", **options)
    release = store.add(folders[0])
    store.sign(release, read_private_key(tmp_path / "key.pem"))
    with ThreadPoolExecutor(4) as pool:
        for _ in range(25):  # a copy from before it was signed: each of them sees that it is not
            (store.path(release) / SIGNATURE).unlink()
            opened = [pool.submit(Store("memory://at-once", **options).open, release)
                      for _ in range(4)]
            assert {one.result(60).id for one in opened} == {release}


def test_a_rollback_that_takes_long_to_fetch_keeps_no_other_writer_waiting(
    tmp_path, folders, monkeypatch
):
    store = Store("memory://slowly", cache=tmp_path / "cache")
    first, second, third = map(store.add, folders)
    store.promote("production", first)
    store.promote("production", second)
    plain = BucketShelf.fetch

    def slowly(self, id12):
        if id12 == first[:12] and "canary" not in store.aliases():
            store.promote("canary", third)  # as another process would meanwhile
        return plain(self, id12)

    monkeypatch.setattr("pipeline.releases.bucket.LOCK_WAIT_S", 0.2)
    monkeypatch.setattr(BucketShelf, "fetch", slowly)
    assert store.rollback("production") == first
    assert store.aliases() == {"canary": third, "production": first}


@pytest.mark.parametrize("url", ["nosuch://bucket/store", "zz::memory://x"])
def test_a_url_that_cannot_be_opened_is_refused(url):
    with pytest.raises(StoreError, match="cannot be opened as a store"):
        Store(url)
