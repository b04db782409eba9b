"""A release opens under a public key only if a trusted key signed that very manifest."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import fsspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from jobs import cli
from pipeline.releases.manifest import MANIFEST, SIGNATURE, ReleaseError
from pipeline.releases.release import Release, open_release, seal
from pipeline.releases.signing import (
    KeyFileError,
    configured_key,
    make_key,
    put_signature,
    read_private_key,
    read_public_keys,
)
from pipeline.releases.store import Store
from serving.machine.launch import free_block
from serving.settings import Settings, open_named, pinned, store_of
from tests.killing import survives
from tests.tiny_release import facts, make_release


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    make_key(tmp_path / "ours.pem")
    return tmp_path / "ours.pem"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    make_key(tmp_path / "theirs.pem")
    return tmp_path / "theirs.pem"


def public(*keys: Path):
    return read_public_keys(key.with_name(f"{key.name}.pub") for key in keys)


def signed_with(key: Path, release: Release) -> Release:
    put_signature(release.folder, read_private_key(key).sign(release.manifest.to_bytes()))
    return release


@pytest.fixture
def release(tmp_path: Path, ours: Path) -> Release:
    return signed_with(ours, make_release(tmp_path / "candidate"))


def test_a_signed_release_opens_with_the_key_and_without(release, ours, theirs):
    assert open_release(release.folder).id == release.id
    assert open_release(release.folder, keys=public(ours)).id == release.id
    assert open_release(release.folder, keys=public(theirs, ours)).id == release.id


def test_the_signature_is_no_part_of_the_id(release, tmp_path):
    assert make_release(tmp_path / "unsigned").id == release.id


def test_openssl_verifies_what_we_sign(release, ours):
    answer = subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", f"{ours}.pub", "-rawin",
         "-in", release.folder / MANIFEST, "-sigfile", release.folder / SIGNATURE],
        capture_output=True, text=True, check=False,
    )
    assert "Signature Verified Successfully" in answer.stdout, answer.stderr


def test_every_flipped_bit_of_the_signature_is_refused(release, ours):
    path, keys = release.folder / SIGNATURE, public(ours)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(ReleaseError, match=r"manifest\.sig: not made by a trusted key"):
            open_release(release.folder, keys=keys)
    path.write_bytes(whole)
    open_release(release.folder, keys=keys)


def test_the_signature_of_another_release_is_refused(release, tmp_path, ours):
    other = signed_with(ours, make_release(tmp_path / "other", variant=1))
    shutil.copyfile(other.folder / SIGNATURE, release.folder / SIGNATURE)
    with pytest.raises(ReleaseError, match=r"not made by a trusted key for this manifest"):
        open_release(release.folder, keys=public(ours))


def test_a_changed_manifest_is_refused_before_it_is_parsed(release, ours):
    (release.folder / MANIFEST).write_bytes(b"{")
    with pytest.raises(ReleaseError, match=r"manifest\.sig: not made by a trusted key"):
        open_release(release.folder, keys=public(ours))


def test_a_signature_by_an_untrusted_key_is_refused(release, theirs):
    with pytest.raises(ReleaseError, match=r"not made by a trusted key.* --public-key"):
        open_release(release.folder, keys=public(theirs))


def test_where_no_key_is_trusted_nothing_opens(release):
    with pytest.raises(ReleaseError, match=r"not made by a trusted key"):
        open_release(release.folder, keys=())


def test_an_unsigned_release_opens_only_where_no_key_is_demanded(release, ours):
    (release.folder / SIGNATURE).unlink()
    with pytest.raises(ReleaseError, match=r"manifest\.sig: missing; .* `limen releases sign`"):
        open_release(release.folder, keys=public(ours))
    assert open_release(release.folder).id == release.id


@pytest.mark.parametrize("data", [b"", b"x" * 63, b"x" * 65, b"x" * 10_000])
def test_what_is_no_signature_is_refused_even_without_a_key(release, data):
    (release.folder / SIGNATURE).write_bytes(data)
    with pytest.raises(ReleaseError, match=rf"manifest\.sig: {len(data)} bytes, .* has 64"):
        open_release(release.folder)


def test_a_link_or_a_folder_is_no_signature(release, tmp_path, ours):
    path = release.folder / SIGNATURE
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    for keys in (None, public(ours)):
        with pytest.raises(ReleaseError, match=r"manifest\.sig: not a plain file"):
            open_release(release.folder, keys=keys)
    path.unlink()
    path.mkdir()
    with pytest.raises(ReleaseError, match=r"manifest\.sig: not a plain file"):
        open_release(release.folder)


@pytest.mark.parametrize(
    "name", ["manifest.sig.old", "index/manifest.sig", ".manifest.sig.partial"]
)
def test_only_the_signature_itself_may_lie_beside_the_manifest(release, ours, name):
    (release.folder / name).write_bytes(b"x" * 64)
    with pytest.raises(ReleaseError, match=f"{name}: not in the manifest"):
        open_release(release.folder, keys=public(ours))


def test_sealing_again_drops_the_earlier_signature(release):
    seal(release.folder, facts())
    assert not (release.folder / SIGNATURE).exists()


def test_signing_that_is_killed_at_any_point_leaves_a_release_that_opens(release, theirs):
    key, before = read_private_key(theirs), (release.folder / SIGNATURE).read_bytes()
    signature = key.sign(release.manifest.to_bytes())
    requests = 0
    while not survives(lambda: put_signature(release.folder, signature), requests):
        assert open_release(release.folder).id == release.id
        assert (release.folder / SIGNATURE).read_bytes() in (before, signature)
        requests += 1
    assert requests >= 2
    assert open_release(release.folder, keys=public(theirs)).id == release.id


@pytest.fixture(params=["folder", "bucket"])
def stores(request, tmp_path):
    if request.param == "folder":
        return [str(tmp_path / "a"), str(tmp_path / "b")]
    fsspec.filesystem("memory").store.clear()
    return ["memory://signed-a", "memory://signed-b"]


def store(url: str, tmp_path: Path, keys=None) -> Store:
    return Store(url, cache=tmp_path / "cache" / url.rpartition("/")[2], keys=keys)


def test_a_release_copied_between_stores_keeps_its_signature(stores, tmp_path, release, ours):
    first, second = (store(url, tmp_path) for url in stores)
    second.add(first.path(first.add(release.folder)))
    assert store(stores[1], tmp_path, public(ours)).open(release.id).id == release.id


def test_a_store_with_keys_hands_out_promotes_and_rolls_back_to_what_they_signed_alone(
    stores, tmp_path, release, ours
):
    unsigned = make_release(tmp_path / "unsigned", variant=1)
    free, bound = store(stores[0], tmp_path), store(stores[0], tmp_path, public(ours))
    for kept in (release, unsigned):
        free.add(kept.folder)
    free.promote("production", unsigned.id)
    for refused in (
        lambda: bound.open("production"),
        lambda: bound.path(unsigned.id),
        lambda: bound.promote("production", unsigned.id),
    ):
        with pytest.raises(ReleaseError, match=r"manifest\.sig: missing"):
            refused()
    bound.promote("production", release.id)
    with pytest.raises(ReleaseError, match=r"manifest\.sig: missing"):
        bound.rollback("production")
    assert bound.open("production").id == release.id


def test_a_release_is_signed_again_where_it_lies_also_where_a_copy_is_cached(
    stores, tmp_path, release, ours, theirs
):
    free = store(stores[0], tmp_path)
    free.add(release.folder)
    assert free.open(release.id).id == release.id
    assert free.sign(release.id12, read_private_key(theirs)) == release.id
    assert store(stores[0], tmp_path, public(theirs)).open(release.id).id == release.id
    with pytest.raises(ReleaseError, match="not made by a trusted key"):
        store(stores[0], tmp_path, public(ours)).open(release.id)


def test_adding_a_signed_copy_signs_the_one_that_is_there(stores, tmp_path, release, ours):
    free = store(stores[0], tmp_path)
    free.add(make_release(tmp_path / "unsigned").folder)
    free.add(release.folder)
    assert store(stores[0], tmp_path, public(ours)).open(release.id).id == release.id
    free.add(make_release(tmp_path / "again").folder)
    assert store(stores[0], tmp_path, public(ours)).open(release.id).id == release.id


def test_a_signature_of_the_wrong_size_in_object_storage_never_reaches_the_cache(
    tmp_path, release, ours
):
    fsspec.filesystem("memory").store.clear()
    free = store("memory://signed-a", tmp_path)
    free.add(release.folder)
    path = f"/signed-a/releases/{release.id12}/{SIGNATURE}"
    fsspec.filesystem("memory").pipe_file(path, b"x" * 10_000)
    with pytest.raises(ReleaseError, match=r"manifest\.sig: \d+ bytes, a signature has 64"):
        free.open(release.id)
    fsspec.filesystem("memory").rm(path)
    assert free.open(release.id).id == release.id
    with pytest.raises(ReleaseError, match=r"manifest\.sig: missing"):
        store("memory://signed-a", tmp_path, public(ours)).open(release.id)


def test_a_signature_taken_away_in_object_storage_counts_for_no_cached_copy(
    tmp_path, release, ours
):
    fsspec.filesystem("memory").store.clear()
    store("memory://signed-b", tmp_path).add(release.folder)
    assert store("memory://signed-b", tmp_path, public(ours)).open(release.id).id == release.id
    fsspec.filesystem("memory").rm(f"/signed-b/releases/{release.id12}/{SIGNATURE}")
    with pytest.raises(ReleaseError, match=r"manifest\.sig: missing"):
        store("memory://signed-b", tmp_path, public(ours)).open(release.id)


def test_a_store_that_trusts_no_key_hands_out_nothing(stores, tmp_path, release):
    store(stores[0], tmp_path).add(release.folder)
    with pytest.raises(ReleaseError, match="not made by a trusted key"):
        store(stores[0], tmp_path, ()).open(release.id)


def test_a_private_key_is_its_owners_and_never_replaced(ours):
    assert ours.stat().st_mode & 0o777 == 0o600
    before = ours.read_bytes()
    with pytest.raises(KeyFileError, match=r"ours\.pem: exists"):
        make_key(ours)
    ours.with_name("x.pub").write_bytes(b"")
    with pytest.raises(KeyFileError, match=r"x\.pub: exists"):
        make_key(ours.with_name("x"))
    assert ours.read_bytes() == before
    assert not ours.with_name("x").exists()


def test_a_file_may_hold_several_public_keys(release, tmp_path, ours, theirs):
    both = tmp_path / "both.pub"
    both.write_bytes(Path(f"{theirs}.pub").read_bytes() + b"\n" + Path(f"{ours}.pub").read_bytes())
    keys = read_public_keys([both])
    assert len(keys) == 2
    assert open_release(release.folder, keys=keys).id == release.id


def test_what_is_no_key_is_one_line_that_names_the_file(tmp_path, ours):
    other = generate_private_key(SECP256R1())
    pem = {
        "garbage": b"\x00garbage",
        "empty": b"",
        "large": b"-" * 100_000,
        "broken": b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        "curve": other.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "private": ours.read_bytes(),
    }
    for name, data in pem.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(KeyFileError, match=rf"{name}: ") as refused:
            read_public_keys([tmp_path / name])
        assert "\n" not in str(refused.value)
    secret = read_private_key(ours).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    for name, data in {
        "encrypted": secret, "garbage": b"\x00", "public": Path(f"{ours}.pub").read_bytes(),
        "curve": other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(KeyFileError, match=rf"{name}: ") as refused:
            read_private_key(tmp_path / name)
        assert "\n" not in str(refused.value)
    with pytest.raises(KeyFileError, match="nowhere: cannot be read"):
        read_public_keys([tmp_path / "nowhere"])


def test_a_key_that_was_configured_and_cannot_be_read_is_an_error_not_a_silent_no(
    tmp_path, monkeypatch, ours
):
    monkeypatch.setenv("LIMEN_SIGNING_KEY", str(tmp_path / "gone.pem"))
    with pytest.raises(KeyFileError, match=r"gone\.pem: cannot be read"):
        configured_key()
    monkeypatch.setenv("LIMEN_SIGNING_KEY", str(ours))
    assert configured_key() is not None
    monkeypatch.setenv("LIMEN_SIGNING_KEY", "")
    assert configured_key() is None


def test_a_server_with_a_public_key_opens_nothing_unsigned_and_takes_a_new_key_up_by_itself(
    tmp_path, release, ours, theirs
):
    kept = Store(str(tmp_path / "store"))
    kept.add(release.folder)
    kept.promote("production", release.id)
    trusted = tmp_path / "trusted.pub"
    trusted.write_bytes(Path(f"{theirs}.pub").read_bytes())
    by_alias = Settings(release="production", store=str(tmp_path / "store"),
                        public_keys=(str(trusted),))
    by_folder = dataclasses.replace(by_alias, release=str(release.folder))
    for settings in (by_alias, by_folder):
        with pytest.raises(ReleaseError, match="not made by a trusted key"):
            open_named(settings)
    with pytest.raises(ReleaseError, match="not made by a trusted key"):
        store_of(by_alias).promote("production", release.id)
    trusted.write_bytes(trusted.read_bytes() + Path(f"{ours}.pub").read_bytes())
    for settings in (by_alias, by_folder):
        assert open_named(settings).id == release.id
    trusted.unlink()
    for settings in (by_alias, by_folder):
        with pytest.raises(KeyFileError, match=r"trusted\.pub: cannot be read"):
            open_named(settings)


def test_public_keys_travel_to_the_workers_as_absolute_paths(tmp_path, monkeypatch, release, ours):
    monkeypatch.chdir(tmp_path)
    settings = pinned(Settings(release=str(release.folder), public_keys=("ours.pem.pub",)))
    assert settings.public_keys == (f"{ours}.pub",)
    assert settings.to_args()["public_keys"] == [f"{ours}.pub"]


def test_releases_are_signed_from_the_command_line(tmp_path, refused, monkeypatch, capsys):
    kept = Store(str(tmp_path / "store"))
    release = kept.add(make_release(tmp_path / "candidate").folder)

    def limen(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["limen", "releases", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert "limen serve --public-key key.pem.pub" in limen("keygen", "key.pem")
    assert refused(tmp_path, "releases", "keygen", "key.pem") == (
        "limen: key.pem: exists; expected a new file, keys are not replaced")
    monkeypatch.setenv("LIMEN_SIGNING_KEY", "key.pem")
    assert limen("sign", release[:8]) == f"{release[:12]}: signed with key.pem.\n"
    keys = read_public_keys([tmp_path / "key.pem.pub"])
    assert Store(str(tmp_path / "store"), keys=keys).open(release).id == release
    assert "key.pem.pub: no Ed25519 private key" in refused(
        tmp_path, "releases", "sign", release, "--key", "key.pem.pub")


def test_a_run_that_could_not_sign_is_refused_before_its_work(tmp_path, refused, monkeypatch):
    monkeypatch.setenv("LIMEN_SIGNING_KEY", "gone.pem")
    kept = Store(str(tmp_path / "store"))
    kept.promote("production", kept.add(make_release(tmp_path / "candidate").folder))
    line = refused(tmp_path, "reindex", "production", "items.csv", "--store", "store")
    assert line.startswith("limen: gone.pem: cannot be read")


def test_limen_serve_refuses_an_unsigned_release_in_one_line(tmp_path, refused, release, ours):
    (release.folder / SIGNATURE).unlink()
    line = refused(tmp_path, "serve", str(release.folder), "--port", str(free_block(1)),
                   "--public-key", f"{ours}.pub")
    assert "manifest.sig: missing; only releases signed by a trusted key are opened" in line
    line = refused(tmp_path, "serve", str(release.folder), "--port", str(free_block(1)),
                   "--public-key", "nowhere.pub")
    assert line.startswith("limen: nowhere.pub: cannot be read")
