"""Keys: found, refused, reloaded, and never readable from the file."""

import json
import multiprocessing
import os
import stat

import pytest

from serving.access import SCOPES, KeyRing, KeysError, add_key, read_keys, remove_key


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


def test_a_file_broken_by_an_edit_keeps_the_last_keys(tmp_path, caplog):
    path = tmp_path / "keys.json"
    token = add_key(path, "a", ["query"])
    ring = KeyRing(path)
    path.write_text("{")
    assert ring.find(token) is not None
    assert "cannot be read" in caplog.text
    with pytest.raises(KeysError, match="not a readable keys file"):
        KeyRing(path)


@pytest.mark.parametrize(("field", "value"), [
    ("customer", None), ("customer", ""), ("scopes", "query"), ("scopes", ["queries"]),
    ("sha256", "\u00e9" * 64), ("id", 3),
])
def test_an_entry_edited_to_mean_nothing_is_refused_and_the_others_stay(tmp_path, field, value):
    path = tmp_path / "keys.json"
    token = add_key(path, "a", ["query"])
    ring = KeyRing(path)
    content = json.loads(path.read_text())
    content["keys"][0][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(KeysError, match=field):
        read_keys(path)
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
    with pytest.raises(KeysError, match=f"ids there: {read_keys(path)[0].id}"):
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
    assert len(read_keys(path)) == 30
    assert len({key["id"] for key in json.loads(path.read_text())["keys"]}) == 30
