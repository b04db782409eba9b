"""Settings of the whole suite."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgres_server import MISSING, PostgresServer, programs

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see jobs/__init__.py

# Machines are shared: a slow example is not a failing one.
settings.register_profile("limen", deadline=None)
settings.load_profile("limen")


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server."""
    pytest.importorskip("psycopg", reason="psycopg, the driver of PostgreSQL, is not installed")
    folder = programs()
    if folder is None:
        pytest.skip(MISSING)
    server = PostgresServer(folder)
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """URL of records that are not there yet, on either database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'records.db'}"
    return request.getfixturevalue("postgres").new_url()


@pytest.fixture
def refused(monkeypatch, capsys):
    """``limen ARGUMENTS`` in this process: the one clear line with which it was refused."""

    def call(folder: Path, *arguments: str) -> str:
        from jobs import cli  # late: most tests do without

        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["limen", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if "limen: " in line]
        assert len(lines) == 1
        return lines[0]

    return call


_ENDED = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_ENDED] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Ray's threads sometimes outlive the interpreter and crash in it, when every test has ended
    and is reported: the process ends without that."""
    if "ray" in sys.modules and _ENDED in config.stash and not hasattr(config, "workerinput"):
        sys.modules["ray"].shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_ENDED])
