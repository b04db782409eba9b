"""``ray job submit``: a run submitted to a real Ray ends in a release."""

import sys
import time
from pathlib import Path

import pytest

from pipeline.store import Store
from tests.tiny_run import write_recipe

ROOT = Path(__file__).parent.parent


@pytest.fixture
def address(monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    context = ray.init(
        address="local", num_cpus=2, include_dashboard=True, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    yield f"http://{context.dashboard_url}"
    ray.shutdown()


@pytest.mark.ray
def test_a_submitted_run_seals_and_promotes(address, tmp_path):
    from ray.job_submission import JobStatus, JobSubmissionClient

    write_recipe(tmp_path, steps=10, baseline=False)
    client = JobSubmissionClient(address)
    deadline = time.monotonic() + 180
    while True:
        try:
            job = client.submit_job(
                entrypoint=f"cd {tmp_path} && {sys.executable} -m jobs.run tiny.toml",
                runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
            )
            break
        except RuntimeError as error:  # the agent that starts jobs may come up after Ray itself
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    while not (status := client.get_job_status(job)).is_terminal():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert status == JobStatus.SUCCEEDED, client.get_job_logs(job)
    assert Store(str(tmp_path / "store")).open("production").id12 in client.get_job_logs(job)
