"""``ray job submit``: a run submitted to a Ray cluster ends in a release."""

import os
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.releases.store import Store
from serving.machine.launch import free_block
from tests.tiny_run import write_recipe

ROOT = Path(__file__).parent.parent
RAY = Path(sys.executable).with_name("ray")
PATIENCE_S = 240


TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _environment():
    """This process's, without what other tests told Ray."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return clean | TOKEN | {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def cluster(tmp_path_factory):
    """A head node of its own and its address for jobs.

    No port is Ray's default: a second cluster on the machine would hold it, and an agent
    without its port never starts a job.
    """
    log = tmp_path_factory.mktemp("ray") / "log"
    first = free_block(50)
    roles = (
        "port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
        "runtime-env-agent-port", "metrics-export-port", "ray-client-server-port",
        "node-manager-port",
    )  # fmt: skip
    ports = [f"--{role}={first + i}" for i, role in enumerate(roles)]
    ports += [f"--min-worker-port={first + 10}", f"--max-worker-port={first + 49}"]
    with log.open("w") as output:
        head = subprocess.Popen(
            [RAY, "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats", *ports],
            env=_environment(), stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    yield head, f"http://127.0.0.1:{first + 1}"
    head.terminate()
    head.wait(60)


def _submit(head, address, folder):
    """Submit as a user does; again while the cluster is still starting."""
    command = [
        RAY, "job", "submit", "--address", address, "--no-wait", "--",
        "sh", "-c", f"cd {folder} && {sys.executable} -m jobs.run tiny.toml",
    ]  # fmt: skip
    deadline = time.monotonic() + PATIENCE_S
    while head.poll() is None:
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
        if done.returncode == 0:
            return re.search(r"raysubmit_\w+", done.stdout).group()
        starting = "No available agent" in done.stderr or "Failed to connect" in done.stderr
        assert starting, done.stderr
        assert time.monotonic() < deadline, done.stderr
        time.sleep(1)
    raise AssertionError(f"the head node ended with status {head.returncode}")


def _ask(address, verb, job):
    command = [RAY, "job", verb, "--address", address, job]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.ray
def test_a_submitted_run_seals_and_promotes(cluster, tmp_path):
    write_recipe(tmp_path, steps=10, baseline=False)
    head, address = cluster
    job = _submit(head, address, tmp_path)
    deadline = time.monotonic() + PATIENCE_S
    while not re.search("succeeded|failed|stopped", said := _ask(address, "status", job).lower()):
        assert time.monotonic() < deadline, said
        time.sleep(1)
    log = _ask(address, "logs", job)
    assert "succeeded" in said, log
    assert Store(str(tmp_path / "store")).open("production").id12 in log
