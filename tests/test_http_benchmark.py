"""The benchmark over HTTP counts answers: a failed one never is one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.http.load import LoadError, answer_of, drive

REQUESTS = [f"GET /{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for number in range(6)]


class Server(ThreadingHTTPServer):
    """Answers by the request's number, and keeps which it answered how."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.said: list[tuple[str, int]] = []


class Handler(BaseHTTPRequestHandler):
    """200 for even numbers, 503 for odd ones; ``/4`` in two parts, ``/9`` ends the connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        if self.path == "/9":
            self.close_connection = True
            return
        status = 200 if int(self.path[1:]) % 2 == 0 else 503
        body = b"x" * 100
        self.server.said.append((self.path, status))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:50])
        self.wfile.flush()
        self.wfile.write(body[50:])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("connections", [1, 4])
def test_what_is_counted_is_what_the_server_answered_by_status(
    server: Server, connections: int
) -> None:
    load = drive(server.server_port, REQUESTS, connections, seconds=1.0)
    answered = [status for _, status in server.said]
    assert len(load.latencies) == answered.count(200) > 0
    assert dict(load.failures) == {503: answered.count(503)}
    assert load.per_second == pytest.approx(answered.count(200) / load.seconds)
    assert {path for path, _ in server.said} == {f"/{number}" for number in range(6)}


def test_a_connection_that_ends_without_an_answer_ends_the_run(server: Server) -> None:
    with pytest.raises(LoadError, match="ended amid"):
        drive(server.server_port, [b"GET /9 HTTP/1.1\r\nHost: x\r\n\r\n"], 1, seconds=0.2)


def test_an_answer_is_given_with_its_whole_body(server: Server) -> None:
    assert answer_of(server.server_port, REQUESTS[1]) == (503, b"x" * 100)
