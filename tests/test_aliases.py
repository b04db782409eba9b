"""The log of promotions and rollbacks, and the file that holds it."""

from __future__ import annotations

import json

import pytest

from pipeline.canonical import canonical_json
from pipeline.releases.aliases import AliasBook, StoreError, parse_aliases

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


@pytest.mark.parametrize("alias", ["", "-x", "a b", "a/b", "../a", "x" * 65, "é", A, A[:12], "a\n"])
def test_a_name_that_cannot_be_an_alias_is_refused(alias):
    with pytest.raises(StoreError, match="expected at most 64 letters"):
        AliasBook().promote(alias, A)


@pytest.mark.parametrize("alias", ["production", "face", "deadbeef", "v1_2-rc", "0"])
def test_a_name_that_only_looks_like_the_beginning_of_an_id_is_an_alias(alias):
    assert AliasBook().promote(alias, A).current() == {alias: A}


def test_the_book_comes_back_from_its_bytes():
    book = AliasBook().promote("x", A).promote("x", B).rollback("x").promote("y", C)
    assert parse_aliases(book.to_bytes(), "aliases.json") == book


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([{"action": "rollback", "release": A}], "no alias 'x'"),
        ([{"action": "promote", "release": A}, {"action": "rollback", "release": A}], "nothing to"),
        ([{"action": "promote", "release": "aa"}], "'aa' is no release id"),
        ([{"action": "delete", "release": A}], "unknown action 'delete'"),
        ([{"action": "promote", "release": A}] * 2, "an entry is unknown or changes nothing"),
        ([{"action": "promote", "release": A, "by": "me"}], "an entry is unknown"),
        ([], "an entry is unknown or changes nothing"),
        (["promote"], "a change must be an object"),
        ("promote", "must map each alias to a list"),
    ],
)
def test_a_book_that_makes_no_sense_is_refused(changes, expected):
    data = canonical_json({"aliases": {"x": changes}, "schema": "limen-aliases/1"})
    with pytest.raises(StoreError, match=f"^aliases.json: .*{expected}.*restore it from a copy"):
        parse_aliases(data, "aliases.json")


def test_a_rollback_must_lead_to_the_release_before():
    book = AliasBook().promote("x", A).promote("x", B).promote("x", C).rollback("x")
    document = json.loads(book.to_bytes())
    assert document["aliases"]["x"][-1] == {"action": "rollback", "release": B}
    document["aliases"]["x"][-1]["release"] = A
    with pytest.raises(StoreError, match="a rollback to aaaaaaaaaaaa does not follow"):
        parse_aliases(canonical_json(document), "aliases.json")
