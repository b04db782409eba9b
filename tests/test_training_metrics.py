"""Metrics on disk: every step once, also after a training went back to its checkpoint."""

import dataclasses
import json
import math
import multiprocessing
import os
import signal
import struct

import pytest
from tensorboardX.proto import event_pb2

from jobs.metrics import Metrics, numbers_of
from pipeline.statistics.intervals import Interval
from pipeline.training.loop import Progress
from pipeline.training.validation import Validation


def at(step, loss=1.0, validation=None, threshold=None):
    return Progress(step, 9, loss, 24, 0.5, 2.0, 0.5, validation, threshold)


def lines(folder):
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def scalars(folder):
    """(tag, step, value) as a reader of TensorBoard's sees them: a start drops what it repeats."""
    found = []
    for path in sorted(folder.glob("events*"), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == event_pb2.SessionLog.START:
                found = [entry for entry in found if entry[1] < event.step]
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return found


def test_a_line_and_an_event_for_every_number_of_a_step(tmp_path):
    with Metrics(tmp_path) as metrics:
        metrics.add(at(1, loss=3.0))
        metrics.add(at(2, loss=2.0))
    expected = {"rate": 0.5, "images_per_second": 12.0, "waited": 0.25}
    assert lines(tmp_path) == [
        {"step": 1, "loss": 3.0, **expected}, {"step": 2, "loss": 2.0, **expected}
    ]
    assert sorted(scalars(tmp_path)) == sorted(
        (name, line["step"], value)
        for line in lines(tmp_path) for name, value in line.items() if name != "step"
    )
    assert metrics.waited_share == 0.25


def test_a_measurement_stands_in_the_line_of_its_step_and_unknown_is_null(tmp_path):
    found = Validation(0.75, Interval(-0.5, -1.0, 0.25), 0.125, math.nan, 5, 50, 2)
    with Metrics(tmp_path) as metrics:
        metrics.add(at(1))
        metrics.add(at(2, validation=found))
        metrics.add(at(3, threshold=0.375))
    first, second, third = lines(tmp_path)
    assert third == {**first, "step": 3, "threshold": 0.375}
    measured = {"recall": 0.75, "opis": -0.5, "opis_lower": -1.0, "opis_upper": 0.25,
                "opis_raw": 0.125, "eps_opis": None}  # fmt: skip
    assert {name: second[name] for name in second if name not in first} == measured
    tags = {(tag, step) for tag, step, _ in scalars(tmp_path)}
    assert ("opis", 2) in tags
    assert ("eps_opis", 2) not in tags
    assert numbers_of(dataclasses.replace(at(1), rate=math.nan))["rate"] is None


def test_steps_done_again_replace_those_that_were_there(tmp_path):
    with Metrics(tmp_path) as metrics:
        for step in (1, 2, 3, 4):
            metrics.add(at(step, loss=float(step)))
    # Killed in the middle of a line; the checkpoint was after step 2.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    with Metrics(tmp_path) as metrics:
        for step in (3, 4, 5):
            metrics.add(at(step, loss=10.0 + step))
    expected = [(1, 1.0), (2, 2.0), (3, 13.0), (4, 14.0), (5, 15.0)]
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == expected
    assert [(step, value) for tag, step, value in scalars(tmp_path) if tag == "loss"] == expected


def test_events_that_a_killed_writer_never_wrote_are_told_again(tmp_path):
    def killed():
        metrics = Metrics(tmp_path)
        for step in (1, 2, 3):
            metrics.add(at(step, loss=float(step)))
        os.kill(os.getpid(), signal.SIGKILL)

    writer = multiprocessing.get_context("fork").Process(target=killed)
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    with Metrics(tmp_path) as metrics:
        metrics.add(at(3, loss=13.0))
    expected = [(1, 1.0), (2, 2.0), (3, 13.0)]
    assert [(step, value) for tag, step, value in scalars(tmp_path) if tag == "loss"] == expected


def test_steps_done_again_in_one_process_replace_those_that_were_there(tmp_path):
    # Workers that died go on from the last checkpoint while whoever shows the steps lives on.
    with Metrics(tmp_path) as metrics:
        for step in (1, 2, 3, 2, 3, 4):
            metrics.add(at(step))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    steps = [step for tag, step, _ in scalars(tmp_path) if tag == "loss"]
    assert steps == [1, 2, 3, 4]


def test_nothing_is_written_before_the_first_step(tmp_path):
    with Metrics(tmp_path / "metrics") as metrics:
        pass
    assert math.isnan(metrics.waited_share)
    assert not (tmp_path / "metrics").exists()


@pytest.mark.parametrize("writes", [1, 2])
def test_a_line_is_on_disk_as_soon_as_it_is_added(tmp_path, writes):
    with Metrics(tmp_path) as metrics:
        for step in range(1, writes + 1):
            metrics.add(at(step))
        assert len(lines(tmp_path)) == writes
