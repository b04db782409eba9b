"""``limen serve``: answer queries over HTTP under the release's one threshold.

One machine: ``limen serve production``
Cluster:     ``RAY_ADDRESS=ray://head:10001 limen serve production --store s3://bucket/releases
             --records postgresql://.. --host 0.0.0.0 --replicas 8``
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.records import open_records
from pipeline.release import Release
from serving import launch
from serving.access import KeyRing
from serving.assembly import Settings, open_named
from serving.guard import dismiss, start_guard
from serving.listening import wide_listeners
from serving.monitor import WINDOW


def main(
    release: Annotated[str, typer.Argument(help="Alias, id, beginning of an id, or a folder.")]
    = "production",
    *,
    store: Annotated[str, typer.Option(help="Folder or URL of the store.")] = "store",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    keys: Annotated[Path, typer.Option(help="The customers' keys.")] = Path("keys.json"),
    records: Annotated[str, typer.Option(help="Database URL of decisions and verdicts.")]
    = "sqlite:///records.db",
    record_rate: Annotated[float, typer.Option(help="Share of queries recorded.", min=0, max=1)]
    = 1.0,
    replicas: Annotated[int, typer.Option(help="Processes that answer.", min=1)] = 1,
    window: Annotated[int, typer.Option(
        help="Latest reviewed queries of a customer that its gauges count.", min=8)] = WINDOW,
) -> None:
    """Verify a release and serve it until SIGINT or SIGTERM."""
    console = Console(soft_wrap=True, highlight=False)
    launch.require_free_port(host, port)
    settings = Settings(release=release, store=store, keys=str(keys), records=records,
                        record_rate=record_rate, replicas=replicas, window=window)
    opened = open_named(settings)
    known = len(KeyRing(keys))
    open_records(records).close()
    with _stopped_by_signals() as stopped, _private_folder() as folder:
        _prepare_ray(console, folder)
        console.print(f"Starting Ray Serve with {replicas} replica(s) ...")
        from serving import app  # reads Ray's flags: only after they are set

        try:
            app.start(settings, host, port)
            stopped.listen()  # ray.init has put its own handler there
            _announce(console, opened, settings, f"http://{_reachable(host)}:{port}")
            if not known:
                console.print(f"{keys} holds no key yet: "
                              f"limen keys add CUSTOMER --scope query --keys {keys}")
            stopped.wait()
            console.print("Stopping ...")
        finally:
            app.stop()
    console.print("Stopped.")


class _Stop:
    """Set by SIGINT and SIGTERM."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._event.set())

    def wait(self) -> None:
        while not self._event.wait(0.2):  # a plain wait would hold signals back
            pass


@contextmanager
def _stopped_by_signals() -> Iterator[_Stop]:
    """Until the server is ready SIGTERM interrupts like SIGINT, so that all is cleaned up."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield _Stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for HAProxy's files, guarded: it goes, with what runs from it, even on SIGKILL."""
    with tempfile.TemporaryDirectory(prefix="limen-", ignore_cleanup_errors=True) as name:
        guard = start_guard(Path(name))
        try:
            yield Path(name)
        finally:
            dismiss(guard)


def _prepare_ray(console: Console, folder: Path) -> None:
    missing = launch.missing_haproxy()
    if missing:
        console.print(f"HAProxy is not to be had ({missing}); "
                      "serving through Ray's own proxy, several times slower.")
    launch.apply(launch.ray_environment(folder, haproxy=missing is None))
    logging.getLogger("ray").setLevel(logging.ERROR)


def _announce(console: Console, release: Release, settings: Settings, url: str) -> None:
    facts = release.manifest.facts
    console.print(f"Serving release {release.id12} at {url}  (reference: {url}/docs)")
    console.print(f"Threshold {float(facts.threshold):.6f} ({facts.rule}): {facts.guarantee}")
    console.print("Query with a key of `limen keys add`:")
    example = '{"queries": [{"image": "\'$(base64 -w0 FILE)\'"}]}'
    console.print(f"  curl -H 'Authorization: Bearer KEY' {url}/v1/query -d '{example}'",
                  markup=False)
    wide = wide_listeners(os.getpid())
    proxy = sorted({str(entry.port) for entry in wide if entry.program == "haproxy"})
    others = sorted({str(entry.port) for entry in wide if entry.program != "haproxy"} - {*proxy})
    if wide:
        console.print("Besides, these ports can be reached from beyond this machine unless a "
                      f"firewall forbids it: HAProxy's statistics {', '.join(proxy) or 'none'}; "
                      f"Ray's own {', '.join(others) or 'none'}.")
    console.print(f"Records: {settings.records}. Stop with Ctrl-C or: "
                  f"kill {shlex.quote(str(os.getpid()))}")


def _reachable(host: str) -> str:
    """An address that a client on this machine can use."""
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
