"""Cursors: what they carry, and everything they refuse."""

import base64
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.answers.cursor import (
    Bookmark,
    CursorError,
    Question,
    ReleaseChangedError,
    decode,
    encode,
)

QUESTION = Question(
    release="a" * 64, customer="acme", query=np.asarray([0.6, 0.8], np.float32),
    threshold=np.float32(0.41),
)
AFTER = Bookmark(np.float32(0.38), "item-7", 12)


@given(st.floats(0, 0.375, width=32), st.text(), st.integers(0, 2**62))
def test_a_cursor_carries_its_bookmark_exactly(distance, item_id, up_to):
    bookmark = Bookmark(np.float32(distance), item_id, up_to)
    decoded = decode(encode(QUESTION, bookmark), QUESTION)
    assert decoded == bookmark
    assert decoded.after == (np.float32(distance), item_id)
    assert decoded.distance.dtype == np.float32


def test_a_cursor_is_safe_in_a_url():
    assert set(encode(QUESTION, AFTER)) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    )


@pytest.mark.parametrize("other", [
    {"customer": "other"},
    {"customer": None},
    {"query": np.asarray([0.8, 0.6], np.float32)},
    {"query": np.nextafter(QUESTION.query, np.float32(1))},
    {"threshold": np.nextafter(np.float32(0.41), np.float32(1))},
    {"exact": True},
])
def test_a_cursor_of_another_question_is_refused(other):
    with pytest.raises(CursorError, match="of another query, customer"):
        decode(encode(QUESTION, AFTER), dataclasses.replace(QUESTION, **other))


def test_a_cursor_of_another_release_says_so():
    with pytest.raises(ReleaseChangedError, match=r"cursor of release aaaaaaaaaaaa, now serving b"):
        decode(encode(QUESTION, AFTER), dataclasses.replace(QUESTION, release="b" * 64))


def packed(content):
    text = json.dumps(content, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def forged(level, item_id="x", up_to="3", version=3):
    """With a digest that fits: only the position itself is wrong."""
    digest = QUESTION.digest(level, item_id, up_to)
    return packed([version, "a" * 64, digest, level, item_id, up_to])


EIGHTH = (0.125).hex()
DIGEST = QUESTION.digest("0x1p-3", "x", "3")


def test_the_forger_of_these_tests_can_write_a_cursor():
    assert decode(forged(EIGHTH), QUESTION) == Bookmark(np.float32(0.125), "x", 3)


@pytest.mark.parametrize("text", [
    "", "x", "not base64!", "ü", "A" * 100_000, packed({}), packed([]), packed(7), packed("abcde"),
    packed([3, "a" * 64, DIGEST, 0.38, "x", "3"]),
    packed([3, "a" * 64, DIGEST, "0x1p-3", "x"]),
    packed([3, "a" * 64, DIGEST, "0x1p-3", None, "3"]),
    packed([3, "a" * 64, DIGEST, "0x1p-3", "x", 3]),
    *(forged(EIGHTH, up_to=text) for text in ("", "-1", "03", "1.5", "٣", "9" * 30)),
    forged("0x1p-3", version=2), forged("0x1p-3", version=True),
    forged("zero"), forged("nan"), forged("inf"), forged("0x1p5000"), forged("-0x1p-3"),
    forged((0.1).hex()), forged((0.5).hex()),
    packed([[[[]]]] * 5),
    base64.urlsafe_b64encode(b"[" * 5000).decode(),
    encode(QUESTION, AFTER)[:-3],
    encode(QUESTION, AFTER) + "=",
    encode(QUESTION, AFTER) + "\n",
])
def test_what_was_not_written_as_a_cursor_is_refused(text):
    with pytest.raises(CursorError):
        decode(text, QUESTION)


def test_a_cursor_changed_in_any_character_is_refused():
    cursor = encode(QUESTION, AFTER)
    for place, character in enumerate(cursor):
        changed = cursor[:place] + ("A" if character != "A" else "B") + cursor[place + 1 :]
        with pytest.raises(CursorError):
            decode(changed, QUESTION)
