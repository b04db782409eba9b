"""gRPC over a real socket, through the real front: the same answers and refusals as over HTTP."""

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

from serving.access.key_file import Limit
from serving.access.keys import add_key, set_limit
from serving.rpc import limen_pb2 as pb
from serving.rpc import methods, translation
from serving.rpc.limen_pb2_grpc import LimenStub
from serving.rpc.methods import HEALTH, SERVICE, Rpc, add_health_to_server, add_limen_to_server
from serving.rpc.translation import STATUSES
from serving.schema.bodies import MAX_BODY_BYTES
from serving.web.front import Front
from tests.serving_release import CUSTOMERS
from tests.test_api import Server, b64

ROOT = Path(__file__).parent.parent


class Servicer:
    """The methods under the names of the services, as a replica of Ray Serve has them."""

    def __init__(self, rpc):
        self.Query, self.Verdict, self.Check = rpc.query, rpc.verdict, rpc.check


class Served:
    """A gRPC server on a port of its own."""

    def __init__(self, front):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.port = self.run(self._start(front))
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")

    async def _start(self, front):
        self.server = grpc.aio.server()
        servicer = Servicer(Rpc(front))
        add_limen_to_server(servicer, self.server)
        add_health_to_server(servicer, self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return port

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def stop(self):
        self.channel.close()
        self.run(self.server.stop(None))
        self.loop.call_soon_threadsafe(self.loop.stop)


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    return Server(tmp_path_factory.mktemp("rpc"))


@pytest.fixture(scope="module")
def served(api):
    served = Served(api.front)
    yield served
    served.stop()


@pytest.fixture(scope="module")
def stub(served):
    return LimenStub(served.channel)


def metadata(api, key="all", **more):
    token = api.keys.get(key, key)
    return (("authorization", f"Bearer {token}"), ("x-request-id", "r-1"), *more.items())


def raw(row):
    return np.asarray(row, "<f4").tobytes()


def asked(api, *queries, **fields):
    return pb.QueryRequest(queries=queries, **fields)


def matches(result):
    return [(match.item_id, match.distance) for match in result.matches]


def test_answers_are_those_of_http_bit_by_bit(api, stub):
    world, rows = api.world, (50, 51, 346)
    image = world.items.content[77]
    answer = stub.Query(asked(
        api, *(pb.QueryInput(embedding=raw(world.vectors[row])) for row in rows),
        pb.QueryInput(id="i", image=image), limit=3, with_metadata=True,
    ), metadata=metadata(api))
    import base64

    status, same = api.ask(
        [*({"embedding": world.vectors[row].tolist()} for row in rows),
         {"id": "i", "image": base64.b64encode(image).decode()}],
        limit=3, **{"with": ["metadata"]},
    )
    assert status == 200
    assert (answer.release, answer.request_id) == (same["release"], "r-1")
    assert answer.threshold == same["threshold"]["value"]
    assert answer.threshold_source == "calibrated"
    for got, expected in zip(answer.results, same["results"], strict=True):
        assert matches(got) == [(m["item_id"], m["distance"]) for m in expected["matches"]]
        assert [json.loads(match.metadata_json) for match in got.matches] == [
            match["metadata"] for match in expected["matches"]]
        for name in ("match_count", "complete", "match_recall", "recorded"):
            assert getattr(got, name) == expected[name]
        assert got.HasField("next_cursor") == (expected["next_cursor"] is not None)
        assert got.nearest_rejected.item_id == expected["nearest_rejected"]["item_id"]
        assert got.nearest_rejected.distance == expected["nearest_rejected"]["distance"]
    assert answer.results[3].id == "i"
    assert not answer.results[0].HasField("id")


def test_pages_add_up_and_a_threshold_is_a_float32(api, stub):
    query = pb.QueryInput(embedding=raw(api.world.vectors[50]))
    whole = matches(stub.Query(asked(api, query, limit=1000), metadata=metadata(api)).results[0])
    pages, cursor = [], None
    while cursor != "":
        answer = stub.Query(asked(api, query, limit=1, cursor=cursor), metadata=metadata(api))
        pages += matches(answer.results[0])
        cursor = answer.results[0].next_cursor
    assert pages == whole
    wide = stub.Query(asked(api, query, threshold=0.3, exact=True), metadata=metadata(api))
    assert wide.threshold == np.float32(0.3)
    assert wide.threshold_source == "request"
    assert wide.results[0].match_recall == 1.0


@pytest.mark.parametrize(("message", "body"), [
    (pb.QueryRequest(), {"queries": []}),
    (pb.QueryRequest(queries=[pb.QueryInput()]), {"queries": [{}]}),
    (pb.QueryRequest(queries=[pb.QueryInput(text="a")]), {"queries": [{"text": "a"}]}),
    (pb.QueryRequest(queries=[pb.QueryInput(embedding=raw([1.0]))]),
     {"queries": [{"embedding_b64": b64([1.0])}]}),
    (pb.QueryRequest(queries=[pb.QueryInput(embedding=b"abc")]),
     {"queries": [{"embedding_b64": "YWJj"}]}),
    (pb.QueryRequest(queries=[pb.QueryInput(embedding=raw([np.nan] * 12))]),
     {"queries": [{"embedding_b64": b64([np.nan] * 12)}]}),
    (pb.QueryRequest(queries=[pb.QueryInput(vector=raw([1.0]))]),
     {"queries": [{"vector": [1.0]}]}),
    (pb.QueryRequest(queries=[pb.QueryInput(text="a")], limit=0),
     {"queries": [{"text": "a"}], "limit": 0}),
    (pb.QueryRequest(queries=[pb.QueryInput(embedding=raw(np.eye(12)[0]))], cursor="?"),
     {"queries": [{"embedding_b64": b64(np.eye(12)[0])}], "cursor": "?"}),
])
def test_a_refusal_has_the_text_code_and_details_of_http(api, stub, message, body):
    response = api.send("POST", "/v1/query", body=body)
    expected = json.loads(response.body)["error"]
    with pytest.raises(grpc.RpcError) as refused:
        stub.Query(message, metadata=metadata(api))
    error, trailing = refused.value, dict(refused.value.trailing_metadata())
    assert error.code() == STATUSES[response.status] == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == expected["message"]
    assert trailing["limen-code"] == expected["code"]
    assert json.loads(trailing["limen-details"]) == expected["details"]
    assert trailing["x-request-id"] == "r-1"


@pytest.mark.parametrize("message", [
    pb.QueryRequest(queries=[pb.QueryInput(text="a")], threshold=float("nan")),
    pb.QueryRequest(queries=[pb.QueryInput(vector=raw([np.inf]))]),
    pb.QueryRequest(queries=[pb.QueryInput(vector=b"abc")]),
])
def test_numbers_that_json_has_not_are_refused_and_not_left_out(api, stub, message):
    with pytest.raises(grpc.RpcError, match=r"finite|4 bytes each") as refused:
        stub.Query(message, metadata=metadata(api))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_message_becomes_the_body_that_would_have_been_posted():
    row = np.asarray([0.5, -1.25, 3e-8], "<f4")
    message = pb.QueryRequest(
        queries=[pb.QueryInput(id="a", vector=row.tobytes()), pb.QueryInput(text="b"),
                 pb.QueryInput(image=b"i"), pb.QueryInput(embedding=row.tobytes())],
        limit=7, cursor="c", with_metadata=True, threshold=0.25, exact=True,
    )
    assert json.loads(translation.query_body(message.SerializeToString())) == {
        "queries": [{"id": "a", "vector": [float(x) for x in row]}, {"text": "b"},
                    {"image": "aQ=="}, {"embedding_b64": b64(row)}],
        "limit": 7, "cursor": "c", "with": ["metadata"], "threshold": 0.25, "exact": True,
    }
    assert json.loads(translation.query_body(b"")) == {"queries": [], "with": [], "exact": False}
    verdicts = pb.VerdictRequest(verdicts=[
        pb.VerdictInput(query_id="q", item_id="i", is_match=True, draw_id="d"),
        pb.VerdictInput(query_id="q", item_id="j", is_match=False),
    ])
    assert json.loads(translation.verdict_body(verdicts.SerializeToString())) == {"verdicts": [
        {"query_id": "q", "item_id": "i", "is_match": True, "draw_id": "d"},
        {"query_id": "q", "item_id": "j", "is_match": False},
    ]}


def test_a_call_over_its_limit_is_told_when_to_come_back(api, stub):
    path = Path(api.settings.keys)
    token = add_key(path, "limited", ["query"])
    set_limit(path, "limited", Limit(per_second=0.01, burst=1))
    query = asked(api, pb.QueryInput(embedding=raw(api.world.vectors[0])))
    stub.Query(query, metadata=metadata(api, token))
    with pytest.raises(grpc.RpcError) as refused:
        stub.Query(query, metadata=metadata(api, token))
    trailing = dict(refused.value.trailing_metadata())
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (trailing["limen-code"], trailing["retry-after"]) == ("rate_limited", "100")


@pytest.mark.parametrize(("key", "status"), [
    ("wrong", grpc.StatusCode.UNAUTHENTICATED), ("none", grpc.StatusCode.PERMISSION_DENIED),
])
def test_a_call_needs_its_key_and_scope_before_anything_is_looked_at(api, stub, key, status):
    for method, message in ((stub.Query, pb.QueryRequest()), (stub.Verdict, pb.VerdictRequest())):
        with pytest.raises(grpc.RpcError) as refused:
            method(message, metadata=metadata(api, key))
        assert refused.value.code() == status
    with pytest.raises(grpc.RpcError) as refused:
        stub.Query(pb.QueryRequest())
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_threshold_needs_its_scope(api, stub):
    query = pb.QueryInput(embedding=raw(api.world.vectors[0]))
    with pytest.raises(grpc.RpcError) as refused:
        stub.Query(asked(api, query, threshold=0.2), metadata=metadata(api, "query"))
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_no_byte_of_a_message_is_parsed_before_its_call_is_admitted(api, served, monkeypatch):
    parsed = []
    monkeypatch.setattr(translation, "_parsed", lambda message, data: parsed.append(data))
    for method in ("Query", "Verdict"):
        call = served.channel.unary_unary(f"/{SERVICE}/{method}")  # bytes in, bytes out
        with pytest.raises(grpc.RpcError) as refused:
            call(b"\x0a\x00" * 1000)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert not parsed


@pytest.mark.parametrize(("method", "data", "line"), [
    ("Query", b"\x0a\xff", "not the bytes of a limen.v1.QueryRequest"),
    ("Verdict", b"\xff", "not the bytes of a limen.v1.VerdictRequest"),
    ("Query", b"\x0a\x00" * 2**18, "queries: list should have at most 256 items"),
    ("Verdict", b"\x0a\x00" * 2**18, "verdicts: list should have at most 1000 items"),
])
def test_bytes_that_mean_nothing_or_too_much_are_refused(api, served, method, data, line):
    call = served.channel.unary_unary(f"/{SERVICE}/{method}")
    with pytest.raises(grpc.RpcError, match=line) as refused:
        call(data, metadata=metadata(api))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_message_of_too_many_entries_is_no_long_work(api):
    body = json.loads(translation.query_body(b"\x0a\x00" * 2**18))
    assert len(body["queries"]) == 257
    assert len(json.loads(translation.verdict_body(b"\x0a\x00" * 2**18))["verdicts"]) == 1001


class Told:
    """A call's context without a socket."""

    def __init__(self, api):
        self.sent = metadata(api)
        self.code = self.trailing = None

    def invocation_metadata(self):
        return self.sent

    def set_code(self, code):
        self.code = code

    def set_details(self, details):
        """Not asked for."""

    def set_trailing_metadata(self, trailing):
        self.trailing = dict(trailing)


def test_a_message_larger_than_a_body_may_be_is_refused_unparsed(api, monkeypatch):
    monkeypatch.setattr(translation, "_parsed", lambda *_: 1 / 0)
    told = Told(api)
    asyncio.run(Rpc(api.front).query(b"\0" * (MAX_BODY_BYTES + 1), told))
    assert told.code == grpc.StatusCode.INVALID_ARGUMENT
    assert told.trailing["limen-code"] == "body_too_large"


def test_a_large_message_is_translated_beside_the_event_loop(api, monkeypatch):
    threads = []
    monkeypatch.setattr(methods, "query_body",
                        lambda data: threads.append(threading.get_ident()) or b"{}")

    async def ask():
        for size in (100, 2**20):
            await Rpc(api.front).query(b"\0" * size, Told(api))

    asyncio.run(ask())
    small, large = threads
    assert small == threading.get_ident() != large


def test_verdicts_are_kept_once(api, stub):
    answer = stub.Query(asked(api, pb.QueryInput(embedding=raw(api.world.vectors[60]))),
                        metadata=metadata(api))
    name = answer.results[0].query_id
    request = pb.VerdictRequest(verdicts=[
        pb.VerdictInput(query_id=name, item_id=match.item_id, is_match=True)
        for match in answer.results[0].matches
    ])
    first, again = (stub.Verdict(request, metadata=metadata(api)) for _ in range(2))
    assert (first.accepted, first.repeated) == (len(request.verdicts), 0)
    assert (again.accepted, again.repeated) == (0, len(request.verdicts))
    with pytest.raises(grpc.RpcError) as refused:
        stub.Verdict(request, metadata=metadata(api, "other"))  # another customer's query
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    assert CUSTOMERS[0] not in refused.value.details()


def test_health_speaks_the_standards_bytes(api, served, monkeypatch):
    # health.proto: request {string service = 1}, answer {enum status = 1; SERVING = 1}.
    check = served.channel.unary_unary(f"/{HEALTH}/Check")  # bytes in, bytes out
    name = b"limen.v1.Limen"
    assert check(b"") == check(b"\x0a" + bytes([len(name)]) + name) == b"\x08\x01"
    with pytest.raises(grpc.RpcError) as refused:
        check(b"\x0a\x01x")
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    watch = served.channel.unary_stream(f"/{HEALTH}/Watch")
    with pytest.raises(grpc.RpcError) as refused:
        list(watch(b""))
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    from serving.answers.retriever import Retriever

    monkeypatch.setattr(Retriever, "passes_self_query", lambda _: False)
    assert check(b"") == b"\x08\x02"


def test_a_clients_deadline_ends_what_waits_for_it(api, monkeypatch):
    from pipeline.live.records import Records

    gate = threading.Event()
    monkeypatch.setattr(Records, "add_verdicts", lambda *_: gate.wait(10) and 0)
    served = Served(api.front)
    stub = LimenStub(served.channel)
    verdict = pb.VerdictRequest(
        verdicts=[pb.VerdictInput(query_id="q", item_id="i", is_match=True)])
    try:
        with pytest.raises(grpc.RpcError) as refused:
            stub.Verdict(verdict, metadata=metadata(api), timeout=0.3)
        assert refused.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.RpcError) as refused:  # and one that the server is told of
            stub.Verdict(verdict, metadata=metadata(api, **{"x-limen-timeout-ms": "200"}))
        assert refused.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert dict(refused.value.trailing_metadata())["limen-code"] == "deadline_exceeded"
        assert _waiting(api.front) == 0  # nobody holds a place for a client that left
    finally:
        gate.set()
        served.stop()


def _waiting(front: Front) -> int:
    return front._waiting.total()


def test_the_generated_code_is_what_the_proto_file_makes(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}",
         f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}", "serving/rpc/limen.proto"],
        cwd=ROOT, check=True,
    )
    made = sorted((tmp_path / "serving" / "rpc").iterdir())
    assert [path.name for path in made] == ["limen_pb2.py", "limen_pb2.pyi", "limen_pb2_grpc.py"]
    for path in made:
        assert path.read_text() == (ROOT / "serving" / "rpc" / path.name).read_text()
