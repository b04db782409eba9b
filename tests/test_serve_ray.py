"""``limen serve`` for real: Ray, HAProxy, SQLite, SIGKILL. One server, killed and started again."""

import base64
import os
import re
import signal
import socket
import time
import uuid
from pathlib import Path

import grpc
import httpx
import pytest

from pipeline.distance import deciding
from serving.machine.guard import processes_of
from serving.machine.launch import free_block
from serving.machine.listening import wide_listeners
from serving.machine.supervisor import STEADY_SECONDS
from serving.rpc.limen_pb2 import QueryInput, QueryRequest
from serving.rpc.limen_pb2_grpc import LimenStub
from serving.schema.bodies import MAX_BODY_BYTES
from tests.served import (
    BACK_SECONDS,
    READY_SECONDS,
    REPLICA,
    STOP_SECONDS,
    Server,
    killed,
    processes,
    until,
    whole,
)
from tests.serving_release import CUSTOMERS, THRESHOLD
from tests.swapping import promotions_under_load
from tests.wire import play
from tests.writers import Writer, check

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("serve"))
    server.start()
    yield server
    server.end()


def gauges(server: Server) -> list[str]:
    response = server.client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    # What replicas count starts anew with them; the rest is read from the records.
    counted = ("limen_replicas", "limen_requests", "limen_request_seconds", "limen_queries",
               "limen_refused", "limen_swap", "limen_recheck", "limen_match_recall_live")
    return [line for line in response.text.splitlines()
            if not line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(counted)]


def test_it_says_what_it_serves_where_and_who_can_reach_it(server):
    said = server.output()
    assert f"Serving release {server.world.release.id12} at {server.url}" in said
    assert f"Threshold {float(THRESHOLD):.6f}" in said
    assert f"{server.url}/v1/query" in said
    listed = re.search(r"beyond this machine .*: (.*)\.\n", said)
    told = set(map(int, re.findall(r"(\d+) \(", listed[1]))) if listed else set()
    assert {entry.port for entry in wide_listeners(server.process.pid)} <= told
    assert server.port not in told
    with socket.socket() as probe:
        probe.settimeout(1)
        outside = socket.gethostbyname(socket.gethostname())
        if not outside.startswith("127."):
            assert probe.connect_ex((outside, server.port)) != 0


def test_answers_over_http_are_those_of_brute_force(server):
    rows = server.world.rows_of(CUSTOMERS[0])
    for row in (0, 50, 51):
        distances = deciding(server.world.vectors[[row]], server.world.vectors[rows])[0]
        ids = server.world.items.item_id[rows]
        expected = sorted(
            (float(d), i) for d, i in zip(distances, ids, strict=True) if d <= THRESHOLD
        )
        matches = server.query(row)["results"][0]["matches"]
        assert [(m["distance"], m["item_id"]) for m in matches] == expected


def test_hostile_requests_over_a_socket_are_answered_soundly_and_tell_nothing(server):
    statuses, _ = play(server, seed=9, count=500)
    assert {200, 400, 401, 404, 405} <= set(statuses)


def test_releases_are_promoted_and_rolled_back_under_load_without_a_failed_request(server):
    answered = promotions_under_load(server, 20)
    assert min(answered.values()) > 0
    deadline = time.monotonic() + STOP_SECONDS  # reports come once a second
    served = f'limen_replicas{{release="{server.world.release.id12}"}} 2.0'
    while time.monotonic() < deadline:
        lines = server.client.get("/metrics").text.splitlines()
        queries = [line for line in lines if line.startswith("limen_queries_total{")]
        if served in lines and queries and float(
            queries[0].rpartition(" ")[2]
        ) >= answered.total():
            break
        time.sleep(0.2)
    else:
        raise AssertionError(lines)
    assert "limen_swaps_total 40.0" in lines
    assert "limen_swap_refused_total 0.0" in lines


def test_grpc_comes_through_the_proxy_with_the_same_answers_and_refusals(server):
    channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
    limen = LimenStub(channel)
    metadata = (("authorization", f"Bearer {server.key}"), ("x-request-id", "mine"))
    rows = (0, 50, 51)
    asked = QueryRequest(limit=1000, queries=[
        QueryInput(embedding=server.world.vectors[row].astype("<f4").tobytes()) for row in rows
    ])
    answer = limen.Query(asked, metadata=metadata, timeout=30)
    for row, result in zip(rows, answer.results, strict=True):
        same = server.query(row)["results"][0]["matches"]
        assert [(m.item_id, m.distance) for m in result.matches] == [
            (m["item_id"], m["distance"]) for m in same
        ]
    nothing = server.client.post("/v1/query", json={"queries": []}).json()["error"]
    nobody = httpx.get(f"{server.url}/v1/release", headers={"Authorization": "Bearer wrong"}
                       ).json()["error"]
    for wrong, key, status, same in (
        (QueryRequest(), server.key, grpc.StatusCode.INVALID_ARGUMENT, nothing),
        (asked, "wrong", grpc.StatusCode.UNAUTHENTICATED, nobody),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            limen.Query(wrong, metadata=(("authorization", f"Bearer {key}"), metadata[1]),
                        timeout=30)
        assert refused.value.code() == status
        trailing = dict(refused.value.trailing_metadata())
        assert (trailing["limen-code"], refused.value.details()) == (same["code"], same["message"])
        assert trailing["x-request-id"] == "mine"
    with pytest.raises(grpc.RpcError) as refused:
        limen.Query(QueryRequest(queries=[QueryInput(image=b"x" * (18 * 2**20))]),
                    metadata=metadata, timeout=30)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"", timeout=30) == b"\x08\x01"
    channel.close()


def test_every_kind_of_refusal_comes_through_as_json(server):
    client = server.client
    for response, status in (
        (client.post("/v1/query", content=b"{"), 400),
        (client.post("/v1/query", json={"queries": [{"text": "a"}], "user": "b"}), 400),
        (client.get("/v1/release", headers={"Authorization": ""}), 401),
        (client.get("/v1/customers/birds%2Fsea/consistency"), 404),
        (client.post("/v1/query", content=b"x" * (MAX_BODY_BYTES + 1)), 413),
        (client.post("/v1/query", json={"queries": [{"embedding": [1.0]}]}), 422),
    ):
        assert response.status_code == status, response.text
        assert set(response.json()) == {"error", "request_id"}
    own = client.get("/v1/customers/Food%20%26%20Drink/consistency",
                     headers={"X-Request-Id": "mine"})
    assert own.status_code == 200
    assert own.headers["X-Request-Id"] == "mine"


def test_a_port_in_use_is_one_line_and_exit_1(server):
    second = server.limen(*server.command()[3:])
    assert second.returncode == 1
    lines = second.stderr.strip().splitlines()
    assert len(lines) == 1
    assert str(server.port) in lines[0]
    assert "--port" in lines[0]


def test_a_ray_that_does_not_start_is_one_line_and_exit_1_and_leaves_nothing(server):
    mark = uuid.uuid4().hex  # inherited by all that it starts
    second = server.limen("serve", str(server.folder / "candidate"),
                          "--port", str(free_block(1)), "--keys", str(server.folder / "keys.json"),
                          "--records", f"sqlite:///{server.folder / 'second.db'}",
                          RAY_SERVE_HAPROXY_BINARY_PATH="/bin/false", LIMEN_MARK=mark)
    assert second.returncode == 1
    lines = second.stderr.strip().splitlines()
    assert len(lines) == 1, second.stderr
    assert lines[0].startswith("limen: Ray did not start: ")
    assert "Traceback" not in second.stdout
    until(lambda: not any(mark in _environment(entry) for entry in Path("/proc").glob("[0-9]*")),
          10, "the end of all that it started")


def test_the_verbs_talk_to_the_server(server):
    image = server.folder / "query.png"
    image.write_bytes(server.world.items.content[50])
    asked = server.limen("query", "--image", str(image), "--server", server.url)
    assert asked.returncode == 0, asked.stderr
    assert server.world.items.item_id[50] in asked.stdout
    assert "nearest rejected" in asked.stdout
    drift = server.limen("drift", "--server", server.url)
    assert drift.returncode == 0, drift.stderr
    nobody = server.limen("query", "--image", str(image), "--server", "http://127.0.0.1:9")
    assert nobody.returncode == 1
    assert len(nobody.stderr.strip().splitlines()) == 1


def test_what_was_acknowledged_survives_a_killed_replica(server):
    writers = [Writer(server, name, seed) for seed, name in enumerate((CUSTOMERS[1], "new one"))]
    for writer in writers:
        writer.start()
    try:
        before = killed(server, REPLICA)
        until(lambda: processes(server, REPLICA) - before and whole(server), BACK_SECONDS, "both")
    finally:
        for writer in writers:
            writer.stop()
    assert sum(len(writer.acknowledged) for writer in writers) > 10
    check(server, writers)


def test_a_server_whose_ray_lost_its_head_starts_again_in_its_place(server):
    expected = server.query(50)["results"][0]["matches"]
    time.sleep(max(0.0, server.ready + STEADY_SECONDS - time.monotonic()))
    os.kill(min(processes(server, "gcs_server")), signal.SIGKILL)
    until(lambda: "Ray's gcs_server ended: starting again" in server.output(), 10, "a word")
    until(lambda: server.output().count("Stop with Ctrl-C") == 2, READY_SECONDS, "another start")
    until(lambda: whole(server), BACK_SECONDS, "both replicas")
    assert server.query(50)["results"][0]["matches"] == expected
    assert server.process.poll() is None


def review_everything(server: Server) -> int:
    total = 0
    while reviews := server.client.get("/v1/reviews?budget=1000").json()["reviews"]:
        verdicts = [
            {name: r[name] for name in ("query_id", "item_id", "draw_id")}
            | {"is_match": r["distance"] < 0.03} for r in reviews
        ]
        response = server.client.post("/v1/verdicts", json={"verdicts": verdicts})
        assert response.status_code == 202
        total += len(verdicts)
    return total


def test_a_killed_server_comes_back_with_equal_gauges(server):
    for row in range(40, 340, 8):
        server.query(row)
    assert review_everything(server) > 100
    before = gauges(server)
    assert any(line.startswith("limen_curve_shift{") for line in before)
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline and not _is_free(server.port):
        time.sleep(0.2)
    server.start()
    assert gauges(server) == before
    image = base64.b64encode(server.world.items.content[50]).decode()
    assert server.client.post("/v1/query", json={"queries": [{"image": image}]}).status_code == 200


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_signal_stops_it_quickly_and_leaves_nothing(server):
    folder = _private_folder(server)
    assert list(processes_of(folder))
    started = time.monotonic()
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(STOP_SECONDS) == 0, server.output()
    assert time.monotonic() - started < STOP_SECONDS
    assert server.output().rstrip().endswith("Stopped.")
    assert not list(processes_of(folder))
    assert not folder.exists()
    assert _is_free(server.port)


def _environment(process: Path) -> str:
    try:
        return (process / "environ").read_text(errors="replace")
    except OSError:
        return ""


def _private_folder(server: Server) -> Path:
    """The folder that the server's guard was given."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    for child in children.split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
        if any(word.endswith("guard.py") for word in words):
            return Path(words[words.index("-S") + 2])
    raise AssertionError(children)


