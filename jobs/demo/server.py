"""The server of the demonstration: ``limen serve``, started as a user would start it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from jobs.demo.client import DemoError

_START_SECONDS = 120
_STOP_SECONDS = 30

WINDOW = 80
"""Reviewed queries of a customer that count: few, so that a drift shows soon."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running ``limen serve``."""

    url: str
    pid: int
    log: Path


def add_key(keys: Path, customer: str, *scopes: str) -> str:
    """``limen keys add``: the new key."""
    options = [option for scope in scopes for option in ("--scope", scope)]
    return _limen("keys", "add", customer, *options, "--keys", str(keys)).split()[-1]


def require_free(port: int) -> None:
    """``DemoError`` where something answers on ``port``: it would be taken for our server."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise DemoError(
                f"port {port} is in use; stop what uses it, or choose another: "
                f"make demo ARGS='--port {port + 1}'"
            )


def start(folder: Path, store: str, alias: str, port: int) -> Server:
    """Start ``limen serve`` in the background and wait until it is ready."""
    stop(folder)
    log = folder / "server.log"
    command = [
        *_command("serve", alias, "--store", store, "--port", str(port)),
        *("--keys", str(folder / "keys.json"), "--record-rate", "1", "--window", str(WINDOW)),
        *("--records", f"sqlite:///{(folder / 'records.db').absolute()}"),
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    (folder / "server.pid").write_text(str(process.pid))
    server = Server(f"http://127.0.0.1:{port}", process.pid, log)
    deadline = time.monotonic() + _START_SECONDS
    while not _ready(server.url):
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise DemoError(f"the server did not start: {lines[-1] if lines else 'no output'}")
        time.sleep(0.2)
    return server


def stop(folder: Path) -> None:
    """End the server that an earlier demonstration left in ``folder``, if it still runs."""
    path = folder / "server.pid"
    if not path.exists():
        return
    pid = int(path.read_text())
    if _is_serving(pid):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while _is_serving(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
    path.unlink()


def _is_serving(pid: int) -> bool:
    """Whether ``pid`` is a ``limen serve``: the number may have gone to another program."""
    try:
        state = Path(f"/proc/{pid}/status").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"serve" in command.split(b"\0") and "State:\tZ" not in state


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _limen(*arguments: str) -> str:
    done = subprocess.run(_command(*arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(done.stderr.strip().splitlines()[-1])
    return done.stdout


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "jobs.cli", *arguments]
