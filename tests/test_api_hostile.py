"""Bodies and queries made to mislead or to hold the server, and records in trouble."""

import json

import pytest
import sqlalchemy as sa

from pipeline.database import OVERRIDES, Database
from pipeline.decisions import RecordsUnavailableError
from pipeline.records import Records
from serving import queries
from serving.answering import Answering
from serving.assembly import front_of
from serving.front import Bounds
from serving.recorder import Recorder
from serving.responses import RefusedError
from serving.retriever import Retriever
from serving.schema import Query, QueryRequest
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
    answering = Answering(retriever, _recorder_of(made), lambda: now[0])
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
    return front._api._answering._recorder


def _unavailable(*_: object) -> None:
    raise RecordsUnavailableError("records: gone")
