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
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.encoding.encoder import Encoder
from pipeline.live.records import open_records, without_password
from pipeline.releases.release import Release
from serving.access.keys import KeyRing
from serving.answers.live_items import MOST
from serving.answers.recall_watch import RECHECK_EVERY
from serving.machine import launch, supervisor
from serving.machine.guard import dismiss, start_guard
from serving.machine.listening import wide_listeners
from serving.settings import Settings, open_named
from serving.watching.monitor import WINDOW


def main(
    release: Annotated[str, typer.Argument(help="Alias, id, beginning of an id, or a folder.")]
    = "production",
    *,
    store: Annotated[str, typer.Option(help="Folder or URL of the store.")] = "store",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    grpc_port: Annotated[int, typer.Option(
        help="Port of gRPC; 0: no gRPC.", min=0, max=65535)] = 0,
    keys: Annotated[Path, typer.Option(help="The customers' keys.")] = Path("keys.json"),
    records: Annotated[str, typer.Option(help="Database URL of decisions and verdicts.")]
    = "sqlite:///records.db",
    trail: Annotated[Path | None, typer.Option(
        help="File that overrides and refusals are told in.",
        show_default="trail.jsonl beside the keys")] = None,
    record_rate: Annotated[float, typer.Option(
        help="Largest share of queries recorded; less where more would cost the queries time.",
        min=0, max=1)]
    = 1.0,
    replicas: Annotated[int, typer.Option(help="Processes that answer.", min=1)] = 1,
    window: Annotated[int, typer.Option(
        help="Latest reviewed queries of a customer that its gauges count.", min=8)] = WINDOW,
    public_key: Annotated[list[Path] | None, typer.Option(
        help="File with keys of which one must have signed the release; may be given again.")]
    = None,
    recheck_every: Annotated[int, typer.Option(
        help="Queries of which one is searched again exactly.", min=1)] = RECHECK_EVERY,
    online_items: Annotated[int, typer.Option(
        help="Items of a customer that may be put online before `limen reindex --changes`.",
        min=1)] = MOST,
    shadow: Annotated[str | None, typer.Option(
        help="Alias or id of a release to compare with, unseen and without online changes.")]
    = None,
    shadow_share: Annotated[float, typer.Option(
        help="Share of the queries that are compared.", min=0, max=1)] = 0.1,
) -> None:
    """Verify a release and serve it until SIGINT or SIGTERM."""
    settings = Settings(release=release, store=store, keys=str(keys), records=records,
                        trail=str(trail or ""), record_rate=record_rate, replicas=replicas,
                        window=window, recheck_every=recheck_every, shadow=shadow,
                        online_items=online_items,
                        shadow_share=shadow_share,
                        public_keys=tuple(str(path) for path in public_key or ()))
    _serve_on(settings, host, (port, grpc_port))


def _serve_on(settings: Settings, host: str, ports: tuple[int, int]) -> None:
    """Serve until a signal; start again where Ray falls, and end with 1 where it does not start.

    ``ports``: of HTTP and of gRPC, 0 for none.
    """
    launch.require_free_ports(host, ports)
    launch.require_cluster(os.environ.get("RAY_ADDRESS", ""))
    console = Console(soft_wrap=True, highlight=False)
    environment = dict(os.environ)  # before Ray's flags are added: they are of one start
    ended = _serve(console, settings, host, ports)
    if isinstance(ended, launch.LaunchError):
        supervisor.give_up(str(_taken(host, ports) or ended))
    if ended is not None:
        supervisor.start_again(ended, environment)
    console.print("Stopped.")


def _taken(host: str, ports: tuple[int, int]) -> launch.LaunchError | None:
    """Why Ray did not start, where someone took a port of ours meanwhile."""
    try:
        launch.require_free_ports(host, ports)
    except launch.LaunchError as error:
        return error
    return None


def _serve(
    console: Console, settings: Settings, host: str, ports: tuple[int, int]
) -> supervisor.Fall | launch.LaunchError | None:
    """Serve until a signal (None), or until a head process of Ray has ended, or never."""
    opened = open_named(settings)
    known = len(KeyRing(Path(settings.keys)))
    open_records(settings.records).close()
    ended: supervisor.Fall | launch.LaunchError | None = None
    with _stopped_by_signals() as stopped, _private_folder() as (folder, guard):
        _prepare_ray(console, folder)
        console.print(f"Starting Ray Serve with {settings.replicas} replica(s) ...")
        from serving import app  # reads Ray's flags: only after they are set

        try:
            app.start(settings, host, *ports)
            head = supervisor.RayHead()
            stopped.listen()  # ray.init has put its own handler there
            http, grpc = (f"{_reachable(host)}:{port}" for port in ports)
            _announce(console, opened, settings, f"http://{http}", grpc if ports[1] else None)
            if not known:
                console.print(f"{settings.keys} holds no key yet: "
                              f"limen keys add CUSTOMER --scope query --keys {settings.keys}")
            ended = stopped.wait(head)
            if ended is None:
                console.print("Stopping ...")
        except launch.LaunchError as error:
            ended = error
        finally:
            if ended is None:
                app.stop()
            else:
                supervisor.end_children(guard.pid)  # a Ray without its head cannot be stopped
    return ended


class _Stop:
    """Set by SIGINT and SIGTERM."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._event.set())

    def wait(self, head: supervisor.RayHead) -> supervisor.Fall | None:
        """Until a signal (None), or until a process of Ray's ``head`` has ended."""
        while not self._event.wait(0.2):  # a plain wait would hold signals back
            if fall := head.fallen():
                return fall
        return None


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
def _private_folder() -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A folder for HAProxy's files and its guard: it goes, with what runs from it, even on SIGKILL.
    """
    with tempfile.TemporaryDirectory(prefix="limen-", ignore_cleanup_errors=True) as name:
        guard = start_guard(Path(name))
        try:
            yield Path(name), guard
        finally:
            dismiss(guard)


def _prepare_ray(console: Console, folder: Path) -> None:
    missing = launch.missing_haproxy()
    if missing:
        console.print(f"HAProxy is not to be had ({missing}); "
                      "serving through Ray's own proxy, several times slower.")
    launch.apply(launch.ray_environment(folder, haproxy=missing is None))
    if missing is None:
        launch.steer_haproxy(folder)
    logging.getLogger("ray").setLevel(logging.ERROR)


def _announce(
    console: Console, release: Release, settings: Settings, url: str, grpc: str | None
) -> None:
    facts = release.manifest.facts
    console.print(f"Serving release {release.id12} at {url}  (reference: {url}/docs)")
    if grpc:
        console.print(f"gRPC at {grpc}  (serving/rpc/limen.proto; metadata `authorization`: "
                      "Bearer KEY)")
    console.print(f"Threshold {float(facts.threshold):.6f} ({facts.rule}): {facts.guarantee}")
    console.print("Query with a key of `limen keys add`:")
    console.print(f"  curl -H 'Authorization: Bearer KEY' {url}/v1/query "
                  f"-d '{_example(Encoder(release.folder / 'model.onnx'))}'", markup=False)
    wide = wide_listeners(os.getpid())
    if wide:
        listed = ", ".join(f"{entry.port} ({entry.program})" for entry in wide)
        console.print("Ports that can be reached from beyond this machine unless a firewall "
                      f"forbids it: {listed}.")
    console.print(f"Records: {without_password(settings.records)}. Stop with Ctrl-C or: "
                  f"kill {shlex.quote(str(os.getpid()))}")


def _example(encoder: Encoder) -> str:
    """A query of the kind that the release takes, as a shell takes it between single quotes."""
    content = {
        "image": '"image": "\'$(base64 -w0 FILE)\'"', "text": '"text": "WORDS"',
        "vector": f'"vector": [X1, .., X{encoder.input_dimension}]',
    }[encoder.kind]
    return f'{{"queries": [{{{content}}}]}}'


def _reachable(host: str) -> str:
    """An address that a client on this machine can use."""
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
