"""A release that cannot be taken up ends nothing: what was served is served on, and followed on."""

import threading
import zipfile

import pytest

from serving.counters import Counters
from serving.releases.following import REFUSED, SWAPS, Follower

OLD, BAD, NEW = (letter * 64 for letter in "abc")


def following(meanings, error):
    """A follower of an alias that means each of ``meanings`` in turn; the releases taken up."""
    taken, counters = [], Counters()

    def take_up(release):
        if release == BAD:
            raise error
        taken.append(release)

    follower = Follower(lambda: next(meanings), take_up, served=OLD, counters=counters)
    return follower, taken, counters


# What damaged JSON, NumPy, zip and ONNX files raise, and what a bug would.
@pytest.mark.parametrize("error", [
    OSError("gone"), EOFError(), zipfile.BadZipFile("no zip"), AttributeError("no list"),
    AssertionError(), ImportError("no tokenizers"), MemoryError(), RecursionError("deep\nstack"),
], ids=lambda error: type(error).__name__)  # fmt: skip
def test_whatever_a_release_raises_it_is_refused_in_one_line_and_the_next_is_taken_up(error):
    follower, taken, counters = following(iter([OLD, BAD, BAD, NEW]), error)
    follower.look()
    assert follower.refusal is None
    for _ in range(2):
        follower.look()
        assert follower.refusal.release == BAD
        assert follower.refusal.why
        assert "\n" not in follower.refusal.why
        assert counters.totals()[REFUSED.name, ()] == 1  # tried once
    follower.look()
    assert (follower.refusal, taken) == (None, [NEW])
    assert counters.totals()[SWAPS.name, ()] == 1


def test_an_alias_that_moves_back_to_what_is_served_clears_the_refusal():
    follower, taken, counters = following(iter([BAD, OLD, BAD]), ValueError("damaged"))
    follower.look()
    assert follower.refusal.release == BAD
    follower.look()
    assert (follower.refusal, taken) == (None, [])
    follower.look()  # it moved, so it is tried again
    assert follower.refusal.release == BAD
    assert counters.totals()[REFUSED.name, ()] == 2
    assert counters.totals()[SWAPS.name, ()] == 0


def test_an_alias_that_moves_away_and_back_is_followed_each_time():
    follower, taken, counters = following(iter([NEW, OLD, NEW]), None)
    for _ in range(3):
        follower.look()
    assert taken == [NEW, OLD, NEW]
    assert counters.totals()[SWAPS.name, ()] == 3


def test_the_thread_goes_on_after_a_release_that_raised():
    served = threading.Event()

    def take_up(release):
        if release == BAD:
            raise EOFError
        served.set()

    meanings = iter([BAD])
    follower = Follower(lambda: next(meanings, NEW), take_up, served=OLD, counters=Counters())
    follower.start(0.001)
    assert served.wait(30)
