"""The trail: every line whole and on disk, whoever writes beside, and never a secret."""

import json
import multiprocessing
import stat
from pathlib import Path

import pytest

from pipeline.trail import Trail, TrailError, without_secrets
from serving.access.keys import add_key


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_tells_time_event_and_facts(tmp_path):
    path = tmp_path / "trail.jsonl"
    Trail(path, clock=lambda: 1.5).write("promotion", release="3f9c", by=None, share=0.5)
    assert path.read_text() == (
        '{"time": "1970-01-01T00:00:01.500000+00:00", "event": "promotion", '
        '"release": "3f9c", "by": null, "share": 0.5}\n'
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_text_with_line_breaks_stays_one_line(tmp_path):
    path = tmp_path / "trail.jsonl"
    nasty = 'a\nb\r\u2028"event": "x"\x00\ud800'
    Trail(path).write("refused", customer=nasty)
    assert path.read_bytes().count(b"\n") == 1
    assert lines(path)[0]["customer"] == nasty


def _write_fifty(path, name):
    trail = Trail(path)
    for number in range(50):
        trail.write("made", writer=name, number=number, padding="x" * 5000)


def test_lines_of_many_processes_are_all_there_and_whole(tmp_path):
    path = tmp_path / "trail.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_fifty, args=(path, name)) for name in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    kept = [(line["writer"], line["number"]) for line in lines(path)]
    assert sorted(kept) == [(name, number) for name in range(4) for number in range(50)]
    for name in range(4):
        assert [number for who, number in kept if who == name] == list(range(50))


def test_a_line_cut_short_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "trail.jsonl"
    trail = Trail(path)
    trail.write("first")
    with path.open("ab") as file:
        file.write(b'{"time": "2026')
    trail.write("second")
    first, torn, second = path.read_bytes().splitlines()
    assert torn == b'{"time": "2026'
    assert [json.loads(line)["event"] for line in (first, second)] == ["first", "second"]


def test_a_trail_that_cannot_be_written_is_one_clear_line(tmp_path):
    for path in (tmp_path / "no" / "trail.jsonl", tmp_path):
        with pytest.raises(TrailError, match="cannot add to the trail") as error:
            Trail(path).write("promotion")
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)


def test_a_full_disk_is_an_error_and_not_a_lost_line():
    with pytest.raises(TrailError, match=r"/dev/full.*No space"):
        Trail(Path("/dev/full")).write("promotion")


def test_facts_that_a_line_cannot_hold_are_refused_and_nothing_is_written(tmp_path):
    trail = Trail(tmp_path / "trail.jsonl")
    with pytest.raises(ValueError, match="time"):
        trail.write("x", time=1)
    with pytest.raises(ValueError, match="JSON"):
        trail.write("x", share=float("nan"))
    assert not trail.path.exists()


def test_a_key_is_struck_out_wherever_it_stands(tmp_path):
    token = add_key(tmp_path / "keys.json", "a", ["query"])
    path = tmp_path / "trail.jsonl"
    Trail(path).write("refused", request_id=f"id-{token}", customer=f"Bearer {token}")
    text = path.read_text()
    assert token.split("_", 2)[2] not in text
    assert text.count(f"lim_{token.split('_')[1]}_***") == 2
    assert without_secrets("limen_refused_total, lim_, plim") == "limen_refused_total, lim_, plim"
