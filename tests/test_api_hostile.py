"""Bodies and queries made to mislead or to hold the server, and records in trouble."""

import base64
import json

import numpy as np
import pytest
import sqlalchemy as sa

from pipeline.live.database import Database
from pipeline.live.decisions import RecordsUnavailableError
from pipeline.live.records import Records
from pipeline.live.tables import OVERRIDES
from serving.answers import queries
from serving.answers.answering import Answering
from serving.answers.recorder import Recorder
from serving.answers.retriever import Retriever
from serving.assembly import front_of
from serving.counters import Counters
from serving.responses import RefusedError
from serving.schema.bodies import Query, QueryRequest
from serving.web.front import Bounds
from tests.asgi_world import application, send
from tests.hostile_requests import Judge, hostile_requests
from tests.serving_release import CUSTOMERS, png
from tests.test_api import Link, Server, embedding, error


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    return Server(tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize(("body", "field"), [
    ('{"limit": 1, "limit": 5, "queries": [{"embedding": [1]}]}', "limit"),
    ('{"queries": [], "queries": [{"embedding": [1]}]}', "queries"),
    ('{"queries": [{"embedding": [1]}, {"embedding": [2], "embedding": [1]}]}', "embedding"),
    ('{"queries": [{"embedding": [1], "id": "a", "id": "b"}]}', "id"),
])
def test_a_field_given_twice_is_refused(server, body, field):
    response = server.send("POST", "/v1/query", body=body.encode())
    assert error(response) == (400, "duplicate_field", {"field": field})


def test_of_many_fields_the_one_that_comes_twice_is_named(server):
    body = json.dumps({"queries": [{"embedding": [1], "id": str(i)} for i in range(9)], "limit": 1})
    for twice, text in (
        ("limit", body.replace('"limit"', '"limit": 2, "limit"')),
        ("limit", body.replace('"limit"', '"limit": 2, "lim\\u0069t"')),
        ("id", body.replace('"id": "7"', '"id": "7", "id": "{"')),
    ):
        response = server.send("POST", "/v1/query", body=text.encode())
        assert error(response) == (400, "duplicate_field", {"field": twice})


@pytest.mark.parametrize("depth", [100, 500, 1000, 1020, 100_000])
def test_json_nested_deeper_than_a_stack_is_refused_like_any_other(server, depth):
    for opened, closed in ((b"[", b"]"), (b'{"a": ', b"}")):
        nested = opened * depth + b"1" + closed * depth
        for path, method in (("/v1/query", "POST"), ("/v1/items", "PUT")):
            response = server.send(method, path, body=b'{"queries": ' + nested + b"}")
            assert error(response)[0] == 400


@pytest.mark.parametrize(("queries", "limit", "status"), [
    (10, 1000, 200), (10, 1000 + 1, 400), (11, 1000, 400), (256, 39, 200), (256, 40, 400),
])
def test_an_answer_describes_no_more_than_fits_in_memory(server, queries, limit, status):
    body = {"queries": [{"embedding": embedding(server)}] * queries, "limit": limit}
    assert server.send("POST", "/v1/query", body=body | {"with": ["metadata"]}).status == status
    assert server.send("POST", "/v1/query", body=body).status == (400 if limit > 1000 else 200)


def test_an_error_quotes_little_of_a_long_field(server):
    body = json.dumps({"queries": [{"embedding": [1]}], "x" * 10**6: 1}).encode()
    for sent in (body, body.replace(b'"xx', b'"queries": [], "xx')):
        response = server.send("POST", "/v1/query", body=sent)
        assert response.status == 400
        assert len(response.body) < 2000


def test_text_that_looks_like_a_field_is_none(server):
    body = {"queries": [{"id": '"id": "\\', "embedding": embedding(server)}], "limit": 1}
    for text in (json.dumps(body), json.dumps(body, indent=1).replace('": ', '" : ')):
        assert server.send("POST", "/v1/query", body=text.encode()).status == 200


def test_a_budget_given_twice_is_refused(server):
    response = server.send("GET", "/v1/reviews", query="budget=1&budget=5")
    assert error(response)[:2] == (400, "duplicate_field")


def test_an_index_is_named_where_a_query_is_meant_and_nowhere_else(server):
    body = {"queries": [{"embedding": embedding(server)}], "with": ["secret"]}
    assert error(server.send("POST", "/v1/query", body=body))[2] == {"field": "with.0"}


@pytest.mark.parametrize("release", ["\ud800", "a\nb", "", "x" * 70])
def test_a_cursor_of_no_release_is_none(server, release):
    content = [3, release, "0" * 64, "0x0p+0", "item", "0"]
    cursor = base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
    body = {"queries": [{"embedding": embedding(server)}], "cursor": cursor}
    assert error(server.send("POST", "/v1/query", body=body))[:2] == (400, "invalid_cursor")


def test_a_message_that_quotes_a_client_is_one_short_line():
    quoted = RefusedError(400, "unknown_field", "\ud800\na\x1b[2J" + "b" * 10_000)
    message = json.loads(quoted.response("r").body)["error"]["message"]
    assert message.startswith("??a?[2Jbbb")
    assert len(message) < 600


def test_an_image_in_which_the_model_sees_nothing_is_named(server):
    black = base64.b64encode(png(np.zeros((2, 2, 3), np.uint8))).decode()
    body = {"queries": [{"embedding": embedding(server)}, {"image": black}]}
    response = server.send("POST", "/v1/query", body=body)
    assert error(response) == (422, "invalid_query", {"index": 1, "field": "image"})
    put = {"items": [{"item_id": "black", "image": black}]}
    response = server.send("PUT", "/v1/items", body=put)
    assert error(response) == (422, "invalid_item", {"index": 0, "field": "image"})


def test_a_method_that_is_not_allowed_is_told_which_is(server):
    response = server.send("GET", "/v1/query")
    assert response.status == 405
    assert response.headers["Allow"] == "POST"


def test_a_name_with_a_null_character_is_refused(server):
    body = {"verdicts": [{"query_id": "q", "item_id": "a\0b", "is_match": True}]}
    assert error(server.send("POST", "/v1/verdicts", body=body))[:2] == (400, "invalid_request")


def test_another_threshold_is_audited_or_not_answered(server, monkeypatch):
    asked = [{"embedding": embedding(server, 3)}]
    assert server.ask(asked, threshold=0.25)[0] == 200
    database = Database(server.settings.records)
    with database.read() as connection:
        kept = connection.execute(sa.select(OVERRIDES)).mappings().all()
    database.close()
    assert [(row["request_id"], row["threshold"], row["customer"]) for row in kept] == [
        ("r-1", 0.25, "Food & Drink")
    ]
    assert kept[0]["key_id"] == server.keys["all"].split("_")[1]

    def gone(*_: object) -> None:
        raise RecordsUnavailableError("records: gone")

    monkeypatch.setattr(Records, "add_override", gone)
    body = {"queries": asked, "threshold": 0.25}
    response = server.send("POST", "/v1/query", body=body)
    assert error(response)[:2] == (503, "records_unavailable")
    assert server.ask(asked)[0] == 200


def test_searches_do_not_wait_in_turn_for_records_in_trouble(server, monkeypatch):
    tries = []

    def gone(self: Recorder, *_: object) -> list[bool]:
        tries.append(1)
        raise RecordsUnavailableError("records: database is locked")

    front = front_of(server.settings, Link(server.settings))
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "record", gone)
        body = {"queries": [{"embedding": embedding(server)}]}
        for _ in range(5):
            answer = json.loads(server.send("POST", "/v1/query", body=body, front=front).body)
            assert answer["results"][0]["recorded"] is False
    assert len(tries) == 1


def test_recording_resumes_when_the_pause_is_over(server, monkeypatch):
    now = [1000.0]
    made = front_of(server.settings, Link(server.settings))
    retriever = Retriever(server.world.release)
    live = made._api._engines.current().live
    answering = Answering(retriever, _recorder_of(made), live, Counters(), clock=lambda: now[0])
    request = queries_request(server)
    key = made._api._admission._keys.find(server.keys["all"])
    with monkeypatch.context() as patch:
        patch.setattr(Records, "record", _unavailable)
        assert not answering.answer(request, key, "r")["results"][0]["recorded"]
    assert not answering.answer(request, key, "r")["results"][0]["recorded"]
    now[0] += 31.0
    assert answering.answer(request, key, "r")["results"][0]["recorded"]


def test_many_large_images_stop_at_the_deadline(server, monkeypatch):
    decoded = []
    monkeypatch.setattr(queries.time, "monotonic", lambda: float(len(decoded)))
    monkeypatch.setattr(Retriever, "decode_image", lambda self, data: decoded.append(data))
    request = queries_request(server, image="AAAA", count=10)
    with pytest.raises(RefusedError) as refused:
        queries.embeddings_of(request.queries, Retriever(server.world.release), deadline=2.5)
    assert refused.value.status == 504
    assert len(decoded) == 3


def test_a_front_gives_its_deadline_to_the_work(server, monkeypatch):
    seen = []
    answer = Answering.answer

    def noting(self, request, key, request_id, deadline):
        seen.append(deadline)
        return answer(self, request, key, request_id, deadline)

    monkeypatch.setattr(Answering, "answer", noting)
    front = front_of(server.settings, Link(server.settings), Bounds(seconds=20.0))
    before = queries.time.monotonic()
    body = {"queries": [{"embedding": embedding(server)}]}
    assert server.send("POST", "/v1/query", body=body, front=front).status == 200
    assert before + 20.0 <= seen[0] <= queries.time.monotonic() + 20.0


def queries_request(server, count=1, **content):
    content = content or {"embedding": embedding(server)}
    return QueryRequest(queries=[Query(**content) for _ in range(count)])


def _recorder_of(front):
    return front._api._engines.current().answering._recorder


def _unavailable(*_: object) -> None:
    raise RecordsUnavailableError("records: gone")


# Requests by the thousand


@pytest.fixture(scope="module")
def sender(tmp_path_factory):
    return Sender(Server(tmp_path_factory.mktemp("sender")))


class Sender(Judge):
    """Sends requests of one customer to a server of two, and judges the answers."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.world, CUSTOMERS[0], server.keys.values())
        self.server = server
        self.application = application(server.front)
        query = [{"embedding": embedding(server, 50)}]
        self.cursor = server.ask(query, limit=1)[1]["results"][0]["next_cursor"]

    def play(self, seed: int, count: int) -> None:
        """Send ``count`` requests; every answer is judged."""
        for request in hostile_requests(
            seed, count, key=self.server.keys["all"], row=embedding(self.server, 50),
            cursor=self.cursor, image=self.server.world.items.content[3],
        ):
            self.judge(request, send(
                self.application, request.method, request.path, query=request.query,
                headers=request.headers, body=request.body,
            ))


def test_hostile_requests_are_answered_soundly_and_tell_nothing(sender):
    sender.play(seed=1, count=300)
    assert {200, 400, 401, 404, 405} <= set(sender.statuses)


@pytest.mark.long
def test_ten_thousand_hostile_requests_are_answered_soundly_and_tell_nothing(sender):
    sender.play(seed=2, count=10_000)
    assert sender.server.ask([{"embedding": embedding(sender.server)}])[0] == 200
    print(dict(sorted(sender.statuses.items())))
