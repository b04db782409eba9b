"""Keys: found, refused, ended, rotated, reloaded, and never readable from the file."""

import hashlib
import json
import multiprocessing
import os
import stat
import time

import pytest
from typer.testing import CliRunner

from pipeline.trail import Trail, TrailError
from serving.access import keys
from serving.access.key_file import SCOPES, KeysError, Limit, read_key_file
from serving.access.keys import (
    KeyExpiredError,
    KeyRing,
    add_key,
    remove_key,
    rotate_key,
    set_limit,
)
from serving.commands.keys import app as keys_app
from serving.commands.keys import end_of, seconds_of


def test_a_new_key_is_found_with_its_customer_and_scopes(tmp_path):
    path = tmp_path / "keys.json"
    token = add_key(path, "Food & Drink", ["verdict", "query"])
    key = KeyRing(path).find(token)
    assert key is not None
    assert key.customer == "Food & Drink"
    assert key.scopes == ("query", "verdict")


def test_the_file_holds_no_secret_and_is_its_owners_only(tmp_path):
    path = tmp_path / "keys.json"
    token = add_key(path, "a", ["query"])
    secret = token.split("_", 2)[2]
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_changed_character_of_a_key_makes_it_unknown(tmp_path):
    path = tmp_path / "keys.json"
    token = add_key(path, "a", ["query"])
    ring = KeyRing(path)
    for place in range(len(token)):
        other = "x" if token[place] != "x" else "y"
        assert ring.find(token[:place] + other + token[place + 1 :]) is None


@pytest.mark.parametrize("token", ["", "lim", "lim_", "lim__", "lim_00000000_", "Bearer", "é"])
def test_what_is_no_key_is_not_found(tmp_path, token):
    assert KeyRing(tmp_path / "keys.json").find(token) is None


def test_the_secret_of_one_key_does_not_open_another(tmp_path):
    path = tmp_path / "keys.json"
    first, second = (add_key(path, name, ["query"]) for name in "ab")
    mixed = "_".join([*first.split("_", 2)[:2], second.split("_", 2)[2]])
    assert KeyRing(path).find(mixed) is None


def test_keys_added_and_removed_while_a_server_runs_count_at_once(tmp_path):
    path = tmp_path / "keys.json"
    ring = KeyRing(path)
    assert len(ring) == 0
    token = add_key(path, "a", ["query"])
    key = ring.find(token)
    assert key is not None
    remove_key(path, key.id)
    assert ring.find(token) is None


def test_a_file_replaced_by_one_of_its_size_and_its_time_is_read(tmp_path):
    path = tmp_path / "keys.json"
    token = add_key(path, "a", ["query"])
    ring = KeyRing(path)
    moment = path.stat().st_mtime_ns
    for customer, replaced in (("b", False), ("c", True)):  # edited in place, then put in its place
        text = json.loads(path.read_text())
        text["keys"][0]["customer"] = customer
        edited = tmp_path / "edited" if replaced else path
        edited.write_text(json.dumps(text, indent=1) + "\n")
        os.utime(edited, ns=(moment, moment + (0 if replaced else 1)))
        moment += 0 if replaced else 1
        edited.replace(path)
        assert ring.find(token).customer == customer


def test_a_file_broken_by_an_edit_keeps_the_last_keys(tmp_path, caplog):
    path = tmp_path / "keys.json"
    token = add_key(path, "a", ["query"])
    ring = KeyRing(path)
    path.write_text("{")
    assert ring.find(token) is not None
    assert "cannot be read" in caplog.text
    with pytest.raises(KeysError, match="not a readable keys file"):
        KeyRing(path)


def test_a_file_saved_while_a_broken_one_was_read_is_read_again(tmp_path, monkeypatch):
    path = tmp_path / "keys.json"
    token = add_key(path, "a", ["query"])
    ring = KeyRing(path)
    path.write_text('{"schema": 2,')  # an editor writes, and ends while this is read:

    def ended(read):
        try:
            return read_key_file(read)
        finally:
            path.write_text('{"schema": 2, "keys": []}')

    with monkeypatch.context() as patch:
        patch.setattr(keys, "read_key_file", ended)
        ring.find(token)
    assert ring.find(token) is None


@pytest.mark.parametrize(("field", "value"), [
    ("customer", None), ("customer", ""), ("scopes", "query"), ("scopes", ["queries"]),
    ("sha256", "\u00e9" * 64), ("id", 3), ("expires_at", "soon"), ("expires_at", True),
])
def test_an_entry_edited_to_mean_nothing_is_refused_and_the_others_stay(tmp_path, field, value):
    path = tmp_path / "keys.json"
    token = add_key(path, "a", ["query"])
    ring = KeyRing(path)
    content = json.loads(path.read_text())
    content["keys"][0][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(KeysError, match=field):
        read_key_file(path)
    assert ring.find(token) is not None


@pytest.mark.parametrize("content", ['{"keys": [{"id": "x"}]}', "[]", '{"keys": 3}', "\xff"])
def test_what_is_no_keys_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "keys.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(KeysError, match=r"keys\.json"):
        KeyRing(path)


def test_unknown_scopes_and_names_are_refused_and_nothing_is_written(tmp_path):
    path = tmp_path / "keys.json"
    with pytest.raises(KeysError, match=f"unknown scope 'read'; known scopes: {SCOPES[0]}"):
        add_key(path, "a", ["query", "read"])
    with pytest.raises(KeysError, match="no scope given"):
        add_key(path, "a", [])
    for name in ("", "  ", "a\nb"):
        with pytest.raises(KeysError, match="customer"):
            add_key(path, name, ["query"])
    assert not path.exists()


def test_removing_a_key_that_is_not_there_names_those_that_are(tmp_path):
    path = tmp_path / "keys.json"
    add_key(path, "a", ["query"])
    with pytest.raises(KeysError, match=f"ids there: {read_key_file(path).keys[0].id}"):
        remove_key(path, "beef")


def _add_ten(path):
    for _ in range(10):
        add_key(path, f"customer {os.getpid()}", ["query"])


def test_concurrent_writers_lose_no_key(tmp_path):
    path = tmp_path / "keys.json"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add_ten, args=(path,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(read_key_file(path).keys) == 30
    assert len({key["id"] for key in json.loads(path.read_text())["keys"]}) == 30


# Expiry, rotation, limits, the trail


def told(path):
    trail = path.with_name("trail.jsonl")
    return [json.loads(line) for line in trail.read_text().splitlines()]


def test_a_key_past_its_end_is_refused_by_name_and_not_counted(tmp_path):
    path = tmp_path / "keys.json"
    now = [1000.0]
    token = add_key(path, "a", ["query"], expires_at=1060.0)
    ring = KeyRing(path, clock=lambda: now[0])
    now[0] = 1059.9
    assert ring.find(token).customer == "a"
    assert len(ring) == 1
    now[0] = 1060.0
    with pytest.raises(KeyExpiredError, match="expired at 1970-01-01 00:17:40 UTC"):
        ring.find(token)
    assert ring.find(token[:-1] + ("x" if token[-1] != "x" else "y")) is None
    assert len(ring) == 0


def test_a_rotated_key_works_beside_the_new_one_until_the_overlap_ends(tmp_path):
    path = tmp_path / "keys.json"
    now = [1000.0]
    old = add_key(path, "a", ["query", "verdict"])
    ring = KeyRing(path, clock=lambda: now[0])
    old_id = old.split("_")[1]
    new = rotate_key(path, old_id, 60.0, now=now[0])
    assert ring.find(old).id == old_id
    found = ring.find(new)
    assert (found.customer, found.scopes, found.expires_at) == ("a", ("query", "verdict"), None)
    now[0] = 1060.0
    with pytest.raises(KeyExpiredError):
        ring.find(old)
    assert ring.find(new) is not None


def test_rotation_never_lengthens_the_life_of_a_key_unless_told_to(tmp_path):
    path = tmp_path / "keys.json"
    name = add_key(path, "a", ["query"], expires_at=1030.0).split("_")[1]
    second = rotate_key(path, name, 60.0, now=1000.0).split("_")[1]
    assert [key.expires_at for key in read_key_file(path).keys] == [1030.0, 1030.0]
    third = rotate_key(path, name, 10.0, now=1000.0, expires_at=5000.0).split("_")[1]
    ends = {key.id: key.expires_at for key in read_key_file(path).keys}
    assert ends == {name: 1010.0, second: 1030.0, third: 5000.0}
    with pytest.raises(KeysError, match="say when the new one shall expire"):
        rotate_key(path, second, 60.0, now=2000.0)
    with pytest.raises(KeysError, match="no key with id 'beef'"):
        rotate_key(path, "beef", 60.0)


def test_a_file_of_schema_1_is_read_and_becomes_schema_2_at_its_next_change(tmp_path):
    path = tmp_path / "keys.json"
    digest = hashlib.sha256(b"lim_0a0b0c0d_secret").hexdigest()
    path.write_text(json.dumps({"schema": 1, "keys": [
        {"id": "0a0b0c0d", "customer": "a", "scopes": ["query"], "sha256": digest},
    ]}))
    ring = KeyRing(path)
    assert ring.find("lim_0a0b0c0d_secret").expires_at is None
    assert ring.limit_of("a") is None
    add_key(path, "b", ["query"])
    assert json.loads(path.read_text())["schema"] == 2
    assert ring.find("lim_0a0b0c0d_secret").customer == "a"


def test_a_file_of_a_later_schema_is_refused(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text('{"schema": 3, "keys": []}')
    with pytest.raises(KeysError, match="schema 3: expected 1 or 2"):
        KeyRing(path)


def test_limits_are_the_customers_own_or_the_default_and_change_at_once(tmp_path):
    path = tmp_path / "keys.json"
    token = add_key(path, "a", ["query"])
    ring = KeyRing(path)
    own, default = Limit(per_second=5.0, burst=10), Limit(at_once=3)
    set_limit(path, "a", own)
    set_limit(path, None, default)
    ring.find(token)
    assert (ring.limit_of("a"), ring.limit_of("b")) == (own, default)
    set_limit(path, "a", None)
    set_limit(path, None, None)
    ring.find(token)
    assert ring.limit_of("a") is ring.limit_of("b") is None
    assert len(read_key_file(path).keys) == 1


@pytest.mark.parametrize(("fields", "message"), [
    ({}, "limits nothing"), ({"per_second": 1.0}, "both or neither"),
    ({"burst": 3}, "both or neither"), ({"per_second": 0.0, "burst": 1}, "remove its keys"),
    ({"per_second": float("nan"), "burst": 1}, "per_second nan"), ({"at_once": 0}, "at least 1"),
    ({"per_second": 1.0, "burst": 0}, "at least 1"), ({"at_once": True}, "at least 1"),
    ({"per_second": "9", "burst": 1}, "per_second '9'"),
])
def test_a_limit_that_means_nothing_is_refused(tmp_path, fields, message):
    with pytest.raises(KeysError, match=message):
        Limit(**fields)
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"schema": 2, "keys": [], "limits": {"a": fields}}))
    with pytest.raises(KeysError, match=r"keys\.json"):
        KeyRing(path)


def test_every_change_is_in_the_trail_and_none_without_it(tmp_path):
    path = tmp_path / "keys.json"
    token = add_key(path, "a", ["query"], expires_at=1e10)
    name = token.split("_")[1]
    second = rotate_key(path, name, 60.0, now=0.0)
    set_limit(path, "a", Limit(at_once=2))
    remove_key(path, name)
    lines = told(path)
    assert [line["event"] for line in lines] == [
        "key_added", "key_rotated", "limit_set", "key_removed",
    ]
    assert lines[0]["key_id"] == lines[1]["replaces"] == lines[3]["key_id"] == name
    assert lines[1]["key_id"] == second.split("_")[1]
    assert all(line["customer"] == "a" for line in lines)
    text = path.with_name("trail.jsonl").read_text() + path.read_text()
    assert not any(key.split("_", 2)[2] in text for key in (token, second))
    before = path.read_bytes()
    closed = Trail(tmp_path / "no such folder" / "trail.jsonl")
    for change in (
        lambda: add_key(path, "b", ["query"], trail=closed),
        lambda: rotate_key(path, second.split("_")[1], 1.0, trail=closed),
        lambda: remove_key(path, second.split("_")[1], trail=closed),
        lambda: set_limit(path, "a", None, trail=closed),
    ):
        with pytest.raises(TrailError):
            change()
    assert path.read_bytes() == before


def test_a_change_is_on_the_disk_before_it_is_told_to_be_done(tmp_path, monkeypatch):
    path = tmp_path / "keys.json"
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino)
                        or fsync(number))
    name = add_key(path, "a", ["query"]).split("_")[1]
    for change in (lambda: remove_key(path, name), lambda: set_limit(path, "a", Limit(at_once=1))):
        synced.clear()
        change()
        assert {path.stat().st_ino, tmp_path.stat().st_ino} <= set(synced)


# The verbs


def limen_keys(tmp_path, *arguments):
    return CliRunner().invoke(keys_app, [*arguments, "--keys", str(tmp_path / "keys.json")])


def test_the_verbs_add_rotate_limit_and_list(tmp_path):
    added = limen_keys(tmp_path, "add", "acme", "--expires", "30d")
    token = added.stdout.strip()
    key, = read_key_file(tmp_path / "keys.json").keys
    assert key.expires_at == pytest.approx(time.time() + 30 * 86400, abs=60)
    assert KeyRing(tmp_path / "keys.json").find(token) == key
    rotated = limen_keys(tmp_path, "rotate", key.id, "--overlap", "15m").stdout.strip()
    old, new = read_key_file(tmp_path / "keys.json").keys
    assert old.expires_at == pytest.approx(time.time() + 900, abs=60)
    assert new.id == rotated.split("_")[1]
    limen_keys(tmp_path, "limit", "acme", "--per-second", "2.5", "--at-once", "4")
    limen_keys(tmp_path, "limit", "--default", "--per-second", "50", "--burst", "99")
    file = read_key_file(tmp_path / "keys.json")
    assert file.limits == {"acme": Limit(per_second=2.5, burst=3, at_once=4)}
    assert file.default == Limit(per_second=50.0, burst=99)
    listed = limen_keys(tmp_path, "list").stdout
    assert "acme" in listed
    assert "99" in listed
    assert token not in listed


def test_a_list_shows_names_as_they_are(tmp_path):
    for name in ("a[/b]", "[red]c"):
        limen_keys(tmp_path, "add", name)
        limen_keys(tmp_path, "limit", name, "--at-once", "3")
    listed = limen_keys(tmp_path, "list")
    assert listed.exit_code == 0
    assert listed.stdout.count("a[/b]") == listed.stdout.count("[red]c") == 2


@pytest.mark.parametrize(("arguments", "message"), [
    (("add", "a", "--expires", "soon"), "expected a time such as"),
    (("add", "a", "--expires", "2020-01-01"), "that is past"),
    (("limit",), "CUSTOMER or --default"),
    (("limit", "a", "--default", "--none"), "CUSTOMER or --default"),
    (("limit", "a"), "--none or at least one"),
    (("limit", "a", "--none", "--at-once", "3"), "--none or at least one"),
    (("rotate", "beef"), "no key with id"),
])
def test_a_verb_that_means_nothing_is_refused_and_changes_nothing(tmp_path, arguments, message):
    limen_keys(tmp_path, "add", "acme")
    before = (tmp_path / "keys.json").read_bytes()
    result = limen_keys(tmp_path, *arguments)
    assert isinstance(result.exception, KeysError)
    assert message in str(result.exception)
    assert (tmp_path / "keys.json").read_bytes() == before


def test_a_date_is_its_first_moment_in_utc_and_a_time_counts_from_now():
    assert end_of("1970-01-03", 0.0) == 2 * 86400
    assert end_of("1970-01-03T01:00:00+01:00", 0.0) == 2 * 86400
    assert end_of("12h", 100.0) == 100.0 + 12 * 3600
    for text in ("1h30m", "h", "-1d", "1w", ""):
        with pytest.raises(KeysError, match="expected a time"):
            seconds_of(text)
