"""Starting a server: ports, flags and the guard, without Ray."""

import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.machine import launch
from serving.machine.guard import processes_of, start_guard
from serving.machine.listening import wide_listeners


def test_a_port_in_use_is_named_with_the_remedy():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(launch.LaunchError, match=rf"127\.0\.0\.1:{port} .*--port"):
            launch.require_free_port("127.0.0.1", port)
    launch.require_free_port("127.0.0.1", port)


def test_http_and_grpc_cannot_share_a_port():
    with pytest.raises(launch.LaunchError, match=r"--port and --grpc-port are both 8000"):
        launch.require_free_ports("127.0.0.1", (8000, 8000))


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_does_not_answer_is_named_with_the_remedy(scheme):
    with socket.socket() as answering:
        answering.bind(("127.0.0.1", 0))
        answering.listen()
        address = f"{scheme}127.0.0.1:{answering.getsockname()[1]}"
        launch.require_cluster(address)
    with pytest.raises(launch.LaunchError, match=rf"RAY_ADDRESS={address}: nothing answers"):
        launch.require_cluster(address)
    for left_to_ray in ("", "auto", "local"):
        launch.require_cluster(left_to_ray)


def test_too_few_open_files_are_named_as_such():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with pytest.raises(launch.LaunchError, match="ulimit -n"):
            launch.free_block(100)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_host_that_is_not_here_is_refused():
    with pytest.raises(launch.LaunchError, match=r"192\.0\.2\.1:8000"):
        launch.require_free_port("192.0.2.1", 8000)


def test_haproxy_gets_private_files_and_free_ports(tmp_path):
    one = launch.ray_environment(tmp_path, haproxy=True)
    two = launch.ray_environment(tmp_path, haproxy=True)
    for name, value in one.items():
        if name.endswith(("_LOC", "_PATH", "_BASE", "_FILE")):
            assert value.startswith(str(tmp_path)), name
    ports = [one[f"RAY_SERVE_HAPROXY_{kind}_PORT"] for kind in ("STATS", "METRICS")]
    assert len(set(ports)) == 2
    assert one["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"] == "60"
    assert one["RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"] == "60"
    assert one["RAY_AUTH_TOKEN"] != two["RAY_AUTH_TOKEN"]
    assert not any("HAPROXY" in name for name in launch.ray_environment(tmp_path, haproxy=False))


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setenv("LIMEN_TEST_SET", "5")
    monkeypatch.setenv("LIMEN_TEST_UNSET", "")
    monkeypatch.delenv("LIMEN_TEST_UNSET")
    launch.apply({"LIMEN_TEST_SET": "0", "LIMEN_TEST_UNSET": "0"})
    assert os.environ["LIMEN_TEST_SET"] == "5"
    assert os.environ["LIMEN_TEST_UNSET"] == "0"


def test_a_haproxy_that_cannot_run_is_explained(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(tmp_path / "haproxy"))
    assert "not executable" in str(launch.missing_haproxy())


def test_only_what_listens_beyond_loopback_is_listed():
    with socket.socket() as near, socket.socket() as wide, socket.socket() as unused:
        near.bind(("127.0.0.1", 0))
        wide.bind(("", 0))
        unused.bind(("", 0))
        near.listen()
        wide.listen()
        ports = [entry.port for entry in wide_listeners(os.getpid())]
        assert wide.getsockname()[1] in ports
        assert near.getsockname()[1] not in ports
        assert unused.getsockname()[1] not in ports


_VICTIM = "import sys, time; sys.stdout.write('up\\n'); sys.stdout.flush(); time.sleep(60)"


def test_the_guard_ends_what_runs_from_the_folder_and_nothing_else(tmp_path):
    folder = tmp_path / "private"
    folder.mkdir()
    inside, outside = (
        subprocess.Popen([sys.executable, "-c", _VICTIM, str(where / "x.cfg")],
                         stdout=subprocess.PIPE)
        for where in (folder, tmp_path / "private-not")
    )
    try:
        for process in (inside, outside):
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
        assert list(processes_of(folder)) == [inside.pid]
        guard = start_guard(folder)
        time.sleep(0.3)
        assert inside.poll() is None
        guard.communicate(timeout=20)
        assert inside.wait(timeout=5) == -9
        assert outside.poll() is None
        assert not Path(folder).exists()
    finally:
        for process in (inside, outside):
            process.kill()
            process.communicate()


def test_every_server_has_replica_ports_of_its_own(tmp_path):
    ranges, fallbacks = [], set()
    for name in ("one", "two"):
        variables = launch.ray_environment(tmp_path / name, haproxy=True)
        low, high = (
            int(variables[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX")
        )
        assert high - low + 1 == 100
        fallback = variables["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"]
        assert fallback not in fallbacks | {"8500"}
        fallbacks.add(fallback)
        ranges.append(range(low, high + 1))
        with socket.create_server(("", low)):
            assert launch.free_block(100) != low
    assert len(set(ranges[0]) & set(ranges[1])) in (0, 100)


@pytest.mark.parametrize(("said", "kept"), [
    ("Could not reach GCS.", "Could not reach GCS"),
    ("Deploying failed:\n\n  File x, line 1\nTraceback\n  ReleaseError: counts.npz: sha256\n",
     "Deploying failed: ReleaseError: counts.npz: sha256"),
    ("a" * 5000 + "\n" + "b" * 5000, "a" * 200 + ": " + "b" * 200),
    ("same\nsame", "same"),
    ("\x1b[36mray::Manager.ready()\x1b[39m (pid=1): no", "ray::Manager.ready() (pid=1): no"),
])
def test_why_ray_did_not_start_is_one_line_with_its_first_words_and_its_last(said, kept):
    told = str(launch.not_started(said))
    assert told.startswith(f"Ray did not start: {kept}; see whether ")
    assert "\n" not in told
