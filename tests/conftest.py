"""Settings of the whole suite."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see jobs/__init__.py

# Machines are shared: a slow example is not a failing one.
settings.register_profile("limen", deadline=None)
settings.load_profile("limen")


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
