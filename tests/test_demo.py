"""The demonstration, run for real, and the alert rule on the gauges that it recorded."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.demo import story
from jobs.demo.client import DemoError
from jobs.demo.story import DRIFTED, RECIPE
from serving.machine.launch import free_block
from tests.promtool import assert_drift_alert

ROOT = Path(__file__).parent.parent
RECORDED = Path(__file__).parent / "recorded"


def release_of(text: str) -> str:
    (found,) = set(re.findall(r'release="([0-9a-f]{12})"', text))
    return found


def test_the_alert_fires_for_the_customer_that_drifted_in_a_full_demo_and_for_no_other(tmp_path):
    before, after = ((RECORDED / f"{name}.prom").read_text() for name in ("before", "after"))
    assert_drift_alert([before], firing=[], folder=tmp_path / "before")
    firing = [(release_of(after), DRIFTED)]
    assert_drift_alert([before, after], firing=firing, folder=tmp_path / "after")


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The demo on a briefly trained model, its server left running; stopped as it says."""
    folder, port = tmp_path_factory.mktemp("demo"), free_block(1)
    recipe = (ROOT / RECIPE).read_text().replace("../datasets", str(ROOT / "jobs/datasets"))
    recipe = re.sub(r"^steps = \d+", "steps = 120", recipe, flags=re.M)
    (folder / "short.toml").write_text(re.sub(r"baseline = true", "baseline = false", recipe))
    done = subprocess.run(
        [sys.executable, "-m", "jobs.demo", "--recipe", "short.toml", "--port", str(port)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    yield folder, done.stdout
    subprocess.run(re.search(r"Stop it: (kill \d+)", done.stdout)[1], shell=True, check=True)
    deadline = time.monotonic() + 30
    while (folder / "demo" / "server.log").read_text().split()[-1] != "Stopped.":
        assert time.monotonic() < deadline, "the server did not stop"
        time.sleep(0.2)


@pytest.mark.ray
def test_the_demo_ends_with_a_running_server_that_its_curl_line_reaches(shown):
    folder, said = shown
    line = re.search(r"curl -s .*", said)[0]
    answer = subprocess.run(line, cwd=folder, shell=True, capture_output=True, check=True)
    body = json.loads(answer.stdout)
    assert body["results"][0]["match_recall"] == 1.0
    assert body["release"] in said
    assert Path(re.search(r"Report: +(\S+)", said)[1]).exists()


@pytest.mark.ray
def test_the_alert_fires_on_the_gauges_that_this_demo_recorded(shown, tmp_path):
    folder, _ = shown
    before, after = ((folder / "demo" / f"{name}.prom").read_text() for name in ("before", "after"))
    assert_drift_alert([before], firing=[], folder=tmp_path / "before")
    firing = [(release_of(after), DRIFTED)]
    assert_drift_alert([before, after], firing=firing, folder=tmp_path / "after")


def test_a_port_in_use_is_said_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DemoError, match=f"port {port} is in use; .*--port {port + 1}"):
            story.main(recipe=Path("none.toml"), port=port)
