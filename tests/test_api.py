"""The HTTP interface without HTTP: every status of the contract, and answers against NumPy."""

import asyncio
import base64
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from pipeline.distance import deciding
from pipeline.live.decisions import RecordsUnavailableError
from pipeline.live.records import Records
from serving.access.admission import ROUTES, Head, request_id
from serving.access.key_file import read_key_file
from serving.access.keys import SCOPES, add_key
from serving.answers.retriever import Retriever
from serving.assembly import front_of, gauges_of
from serving.responses import Response
from serving.schema import bodies as schema
from serving.settings import Settings
from serving.web.front import Bounds, Front
from serving.web.openapi import OPERATIONS, openapi_document
from tests.serving_release import CUSTOMERS, DIMENSION, THRESHOLD, make_world, png


class Link:
    """The monitor in this process."""

    def __init__(self, settings: Settings) -> None:
        self._gauges = gauges_of(settings)

    async def metrics(self) -> bytes:
        return self._gauges.metrics()

    async def consistency(self, customer: str | None) -> bytes:
        return self._gauges.consistency(customer)


class Server:
    """One replica with its monitor, and keys for both customers."""

    def __init__(self, folder: Path, records: str = "", **settings: object) -> None:
        self.world = make_world(folder / "candidate")
        keys = folder / "keys.json"
        self.keys = {
            "query": add_key(keys, CUSTOMERS[0], ["query"]),
            "all": add_key(keys, CUSTOMERS[0], SCOPES),
            "other": add_key(keys, CUSTOMERS[1], SCOPES),
            "none": add_key(keys, "nobody", ["items"]),
        }
        self.settings = Settings(
            release=str(folder / "candidate"), keys=str(keys),
            records=records or f"sqlite:///{folder / 'records.db'}", **settings,
        )
        self.front = front_of(self.settings, Link(self.settings))

    def send(self, method, path, key="all", body=b"", *, query="", front: Front | None = None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()

        async def read() -> bytes:
            return data

        head = Head(
            method=method, path=path, query=query, request_id="r-1",
            authorization=f"Bearer {self.keys.get(key, key)}" if key else "",
        )
        response = asyncio.run((front or self.front).handle(head, read))
        assert response.headers["X-Request-Id"] == "r-1"
        return response

    def ask(self, queries, key="all", **fields):
        response = self.send("POST", "/v1/query", key, {"queries": queries, **fields})
        return response.status, json.loads(response.body)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    return Server(tmp_path_factory.mktemp("server"))


def embedding(server, row=0):
    return server.world.vectors[row].tolist()


def error(response: Response):
    content = json.loads(response.body)
    schema.ErrorAnswer.model_validate(content)
    return response.status, content["error"]["code"], content["error"]["details"]


# Answers


@pytest.mark.parametrize("key", ["all", "other", "none"])
def test_matches_are_those_of_brute_force_ties_and_all(server, key):
    customer = {"all": CUSTOMERS[0], "other": CUSTOMERS[1], "none": "nobody"}[key]
    rows = server.world.rows_of(customer)
    asked = [0, 50, 51, 345, 346, 600]
    keys = key if key != "none" else add_key(Path(server.settings.keys), "nobody", ["query"])
    status, answer = server.ask(
        [{"id": f"q{row}", "embedding": embedding(server, row)} for row in asked], keys, limit=1000
    )
    assert status == 200
    schema.QueryAnswer.model_validate(answer)
    assert answer["release"] == server.world.release.id12
    assert np.float32(answer["threshold"]["value"]) == THRESHOLD
    tied = 0
    for row, result in zip(asked, answer["results"], strict=True):
        distances = deciding(server.world.vectors[[row]], server.world.vectors[rows])[0]
        ids = server.world.items.item_id[rows]
        expected = sorted(
            (float(d), i) for d, i in zip(distances, ids, strict=True) if d <= THRESHOLD
        )
        rejected = min((float(d), i) for d, i in zip(distances, ids, strict=True) if d > THRESHOLD)
        assert [(m["distance"], m["item_id"]) for m in result["matches"]] == expected
        assert result["match_count"] == len(expected)
        near = result["nearest_rejected"]
        assert (near["distance"], near["item_id"]) == rejected
        assert result["id"] == f"q{row}"
        assert result["complete"]
        assert result["match_recall"] == 1.0
        tied += len(expected) - len({d for d, _ in expected})
    assert tied > 0


def test_an_image_and_both_forms_of_its_embedding_are_answered_alike(server):
    row = 77
    image = base64.b64encode(server.world.items.content[row]).decode()
    packed = base64.b64encode(server.world.vectors[row].astype("<f4").tobytes()).decode()
    status, answer = server.ask([
        {"image": image}, {"embedding_b64": packed}, {"embedding": embedding(server, row)},
    ])
    assert status == 200
    first, second, third = (
        [(m["item_id"], m["distance"]) for m in result["matches"]] for result in answer["results"]
    )
    assert first == second == third
    assert server.world.items.item_id[row] in [item for item, _ in first]


def test_pages_add_up_to_the_whole_answer_and_count_as_one_query(server):
    query = [{"embedding": embedding(server, 50)}]
    whole = server.ask(query, limit=1000)[1]["results"][0]["matches"]
    assert len(whole) > 3
    assert whole[0]["distance"] == whole[1]["distance"]  # a page ends between equals
    pages, cursor, recorded = [], None, []
    while True:
        status, answer = server.ask(query, limit=1, cursor=cursor)
        assert status == 200
        result = answer["results"][0]
        assert result["match_count"] == len(whole)
        pages += result["matches"]
        recorded.append(result["recorded"])
        cursor = result["next_cursor"]
        if cursor is None:
            break
    assert pages == whole
    assert recorded == [True] + [False] * (len(recorded) - 1)


def test_metadata_comes_only_when_asked_for(server):
    query = [{"embedding": embedding(server, 50)}]
    plain = server.ask(query)[1]["results"][0]["matches"][0]
    assert set(plain) == {"item_id", "distance"}
    full = server.ask(query, **{"with": ["metadata"]})[1]["results"][0]["matches"][0]
    assert full["metadata"] == {"name": f"thing [{int(full['item_id'][5:])}]"}


def test_another_threshold_needs_its_scope_decides_and_is_said(server):
    query = [{"embedding": embedding(server, 50)}]
    refused = server.send("POST", "/v1/query", "query", {"queries": query, "threshold": 0.2})
    assert error(refused) == (403, "forbidden", {"scope": "threshold:override"})
    wide = server.ask(query, threshold=2.0)[1]
    assert wide["threshold"] == {"value": 2.0, "source": "request",
                                 "rule": "distance <= threshold"}
    assert wide["results"][0]["match_count"] == len(server.world.rows_of(CUSTOMERS[0]))
    assert wide["results"][0]["nearest_rejected"] is None


# Refusals


@pytest.mark.parametrize(("body", "status", "code"), [
    (b"", 400, "invalid_json"),
    (b"{", 400, "invalid_json"),
    (b'{"queries": [{"embedding": [NaN]}]}', 400, "invalid_json"),
    (b'{"queries": [{"embedding": [Infinity]}]}', 400, "invalid_json"),
    (b"[]", 400, "invalid_request"),
    (b"{}", 400, "invalid_request"),
    (b'{"queries": []}', 400, "invalid_request"),
    (b'{"queries": [{}]}', 400, "invalid_request"),
    (b'{"queries": [{"text": "a", "image": "a"}]}', 400, "invalid_request"),
    (b'{"queries": [{"embedding": ["1"]}]}', 400, "invalid_request"),
    (b'{"queries": [{"embedding": [null]}]}', 400, "invalid_request"),
    (b'{"queries": [{"text": "a"}], "customer": "b"}', 400, "unknown_field"),
    (b'{"queries": [{"text": "a", "customer": "b"}]}', 400, "unknown_field"),
    (b'{"queries": [{"text": "a"}], "limit": 0}', 400, "invalid_request"),
    (b'{"queries": [{"text": "a"}], "limit": 2.5}', 400, "invalid_request"),
    (b'{"queries": [{"text": "a"}], "exact": 1}', 400, "invalid_request"),
    (b'{"queries": [{"text": "a"}], "with": ["labels"]}', 400, "invalid_request"),
    (b'{"queries": [{"text": "a"}], "threshold": 2.1}', 400, "invalid_request"),
    (b'{"queries": [{"text": "a"}, {"text": "b"}], "cursor": "c"}', 400, "invalid_request"),
    (b'{"queries": [{"text": "a"}]}', 422, "invalid_query"),
    (b'{"queries": [{"vector": [1.0]}]}', 422, "invalid_query"),
    (b"x" * (schema.MAX_BODY_BYTES + 1), 413, "body_too_large"),
])
def test_a_bad_body_is_refused_with_its_own_status(server, body, status, code):
    assert error(server.send("POST", "/v1/query", "query", body))[:2] == (status, code)


def b64(values):
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


UNIT = [1.0] + [0.0] * (DIMENSION - 1)


@pytest.mark.parametrize(("query", "field", "message"), [
    ({"embedding": UNIT[:-1]}, "embedding", "11 coordinates; expected 12"),
    ({"embedding": [0.0] * DIMENSION}, "embedding", "all zero"),
    ({"embedding": [1e39, *UNIT[1:]]}, "embedding", "not finite"),
    ({"embedding": [1.0011, *UNIT[1:]]}, "embedding", "norm 1.0011"),
    ({"embedding": [0.9989, *UNIT[1:]]}, "embedding", "norm 0.9989"),
    ({"embedding_b64": b64([np.nan, *UNIT[1:]])}, "embedding_b64", "not finite"),
    ({"embedding_b64": b64(UNIT)[:-4]}, "embedding_b64", "4 bytes each"),
    ({"embedding_b64": b64([*UNIT, 0])}, "embedding_b64", "13 coordinates"),
    ({"embedding_b64": "*"}, "embedding_b64", "not base64"),
    ({"image": "*"}, "image", "not base64"),
    ({"image": base64.b64encode(b"no image").decode()}, "image", "undecodable"),
    ({"text": "a cat"}, "text", "this release embeds images"),
    ({"vector": [1.0]}, "vector", "this release embeds images"),
])
def test_one_bad_query_refuses_the_request_and_is_named(server, query, field, message):
    fine = {"image": base64.b64encode(png(np.full((2, 2, 3), 9, np.uint8))).decode()}
    response = server.send("POST", "/v1/query", "query", {"queries": [fine, fine, query, fine]})
    assert error(response) == (422, "invalid_query", {"index": 2, "field": field})
    assert message in json.loads(response.body)["error"]["message"]


def test_a_norm_within_the_tolerance_is_searched(server):
    assert server.ask([{"embedding": [1.0009, *UNIT[1:]]}])[0] == 200


def test_the_place_of_a_wrong_type_is_named(server):
    body = {"queries": [{"embedding": UNIT}, {"embedding": [1.0, "x"]}]}
    status, _, details = error(server.send("POST", "/v1/query", "query", body))
    assert status == 400
    assert details == {"field": "queries.1.embedding.1", "index": 1}


def test_cursors_of_elsewhere_are_refused(server, tmp_path_factory):
    query = [{"embedding": embedding(server, 50)}]
    cursor = server.ask(query, limit=1)[1]["results"][0]["next_cursor"]
    send = server.send
    body = {"queries": query, "limit": 1, "cursor": cursor}
    assert error(send("POST", "/v1/query", "other", body))[:2] == (400, "invalid_cursor")
    assert error(send("POST", "/v1/query", "all", {**body, "cursor": "?"}))[0] == 400
    old = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    old[1] = "0" * len(old[1])
    stale = base64.urlsafe_b64encode(json.dumps(old).encode()).decode().rstrip("=")
    assert error(send("POST", "/v1/query", "all", {**body, "cursor": stale}))[:2] == (
        409, "release_changed",
    )


@pytest.mark.parametrize(("method", "path"), [pair for pair in ROUTES if pair[1] != "/"])
def test_every_path_asks_for_its_key_and_scope(server, method, path):
    operation, scope = ROUTES[method, path]
    if scope == "open":
        assert server.send(method, path, key=None).status == 200
        return
    for key in (None, "wrong", "lim_00000000_" + "A" * 43):
        response = server.send(method, path, key=key)
        assert error(response)[:2] == (401, "unauthenticated")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
    refused = server.send(method, path, key="query" if scope == "items" else "none")
    if scope == "any key":
        assert refused.status == 200
    else:
        assert error(refused) == (403, "forbidden", {"scope": scope})
    assert operation


@pytest.mark.parametrize(("method", "path", "status", "code"), [
    ("GET", "/v1/nothing", 404, "not_found"),
    ("GET", "/v1/query/", 404, "not_found"),
    ("GET", "/v1/query", 405, "method_not_allowed"),
    ("DELETE", "/metrics", 405, "method_not_allowed"),
    ("POST", "/v1/customers/a/consistency", 405, "method_not_allowed"),
])
def test_what_is_not_there_is_refused(server, method, path, status, code):
    assert error(server.send(method, path))[:2] == (status, code)


def test_a_customer_reads_its_own_consistency_and_no_other(server):
    own = server.send("GET", "/v1/customers/Food%20%26%20Drink/consistency", "query")
    assert own.status == 200
    assert json.loads(own.body)["customer"] == CUSTOMERS[0]
    slash = server.send("GET", "/v1/customers/birds%2Fsea/consistency", "other")
    assert json.loads(slash.body)["customer"] == CUSTOMERS[1]
    for path in ("/v1/customers/birds%2Fsea/consistency", "/v1/customers/x/consistency"):
        assert error(server.send("GET", path, "all"))[:2] == (404, "not_found")


# Reviews and verdicts


def test_what_reviews_draw_verdicts_answer_and_the_gauges_count(server):
    server.ask([{"embedding": embedding(server, 60)}])
    reviews = json.loads(server.send("GET", "/v1/reviews", query="budget=1000").body)
    schema.ReviewsAnswer.model_validate(reviews)
    assert reviews["reviews"]
    verdicts = {"verdicts": [
        {"query_id": r["query_id"], "item_id": r["item_id"], "draw_id": r["draw_id"],
         "is_match": r["distance"] < 0.01}
        for r in reviews["reviews"]
    ]}
    total = len(verdicts["verdicts"])
    for accepted in (total, 0):
        response = server.send("POST", "/v1/verdicts", body=verdicts)
        assert response.status == 202
        answer = json.loads(response.body)
        schema.VerdictsAnswer.model_validate(answer)
        assert (answer["accepted"], answer["repeated"]) == (accepted, total - accepted)
    left = json.loads(server.send("GET", "/v1/reviews", query="budget=1000").body)
    assert left["reviews"] == []
    metrics = server.send("GET", "/metrics")
    assert metrics.content_type.startswith("text/plain; version=0.0.4")
    line = next(text for text in metrics.body.decode().splitlines()
                if text.startswith("limen_verdicts_total") and 'kind="drawn"' in text)
    assert CUSTOMERS[0] in line
    assert float(line.rsplit(" ", 1)[1]) == total
    overall = json.loads(server.send("GET", "/v1/consistency").body)
    assert overall["recorded"][0]["drawn_verdicts"] == total


def test_drift_as_json_has_the_numbers_of_the_gauges(server):
    for row in range(100, 300, 5):
        server.ask([{"embedding": embedding(server, row)}])
    while reviews := json.loads(
        server.send("GET", "/v1/reviews", query="budget=1000").body
    )["reviews"]:
        server.send("POST", "/v1/verdicts", body={"verdicts": [
            {"query_id": r["query_id"], "item_id": r["item_id"], "draw_id": r["draw_id"],
             "is_match": r["distance"] < 0.03}
            for r in reviews
        ]})
    own = json.loads(server.send("GET", "/v1/customers/Food%20%26%20Drink/consistency").body)
    overall = json.loads(server.send("GET", "/v1/consistency").body)
    assert own["drift"] == overall["customers"][0]
    lines = server.send("GET", "/metrics").body.decode().splitlines()
    for name in ("curve_shift", "utility_change", "inconsistency", "inconsistency_drift"):
        for bound, suffix in (("value", ""), ("lower", "_lower"), ("upper", "_upper")):
            line = next(text for text in lines if text.startswith(f"limen_{name}{suffix}{{"))
            assert own["drift"][name][bound] == float(line.rsplit(" ", 1)[1])
    nobody = add_key(Path(server.settings.keys), "nobody", ["query"])
    silent = json.loads(server.send("GET", "/v1/customers/nobody/consistency", nobody).body)
    assert silent["drift"] is None


def test_a_batch_of_verdicts_with_a_bad_one_keeps_none(server):
    query_id = server.ask([{"embedding": embedding(server, 61)}])[1]["results"][0]["query_id"]
    good = {"query_id": query_id, "item_id": "item-0061", "is_match": True}
    send = server.send
    for bad in (
        {**good, "query_id": "unknown"}, {**good, "draw_id": "unknown"},
    ):
        response = send("POST", "/v1/verdicts", body={"verdicts": [good, bad]})
        assert error(response) == (404, "unknown_pair", {"index": 1})
    response = send("POST", "/v1/verdicts", "other", {"verdicts": [good]})
    assert error(response)[:2] == (404, "unknown_pair")
    kept = json.loads(send("POST", "/v1/verdicts", body={"verdicts": [good]}).body)
    assert kept["accepted"] == 1


def test_a_verdict_against_an_earlier_one_is_a_conflict(server):
    server.ask([{"embedding": embedding(server, 62)}])
    review = json.loads(server.send("GET", "/v1/reviews", query="budget=1").body)["reviews"][0]
    verdict = {name: review[name] for name in ("query_id", "item_id", "draw_id")}
    yes, no = ({"verdicts": [{**verdict, "is_match": said}]} for said in (True, False))
    assert server.send("POST", "/v1/verdicts", body=yes).status == 202
    response = server.send("POST", "/v1/verdicts", body=no)
    assert error(response) == (409, "verdict_contradicted", {"index": 0})


@pytest.mark.parametrize("query", ["budget=0", "budget=-1", "budget=x", "budget=", "budget=1001",
                                   "size=3", "budget=1&customer=b"])
def test_a_bad_budget_is_refused(server, query):
    assert error(server.send("GET", "/v1/reviews", query=query))[0] == 400


def test_reviews_are_the_keys_own(server):
    server.ask([{"embedding": embedding(server, 63)}])
    other = json.loads(server.send("GET", "/v1/reviews", "other", query="budget=1000").body)
    mine = json.loads(server.send("GET", "/v1/reviews", "all", query="budget=1000").body)
    assert mine["reviews"]
    assert not {r["query_id"] for r in mine["reviews"]} & {r["query_id"] for r in other["reviews"]}


# The server itself


def test_the_release_says_what_decides(server):
    facts = json.loads(server.send("GET", "/v1/release", "none").body)
    assert facts["release"] == server.world.release.id12
    assert np.float32(facts["threshold"]["value"]) == THRESHOLD
    assert facts["kind"] == "image"
    assert server.send("GET", "/v1/release/report").body == b"<h1>report</h1>"


def _gone(*_: object) -> None:
    raise RecordsUnavailableError("records: gone")


def test_records_that_are_gone_cost_the_sample_and_not_the_answer(server, monkeypatch):
    monkeypatch.setattr(Records, "record", _gone)
    monkeypatch.setattr(Records, "reviews", _gone)
    status, answer = server.ask([{"embedding": embedding(server, 50)}])
    assert status == 200
    assert answer["results"][0]["recorded"] is False
    assert answer["results"][0]["match_count"] > 0
    response = server.send("GET", "/v1/reviews")
    assert error(response)[:2] == (503, "records_unavailable")
    assert response.headers["Retry-After"] == "2"


def test_a_fault_of_the_server_is_logged_and_told_without_details(server, monkeypatch, caplog):
    monkeypatch.setattr(Records, "reviews", lambda *_: 1 / 0)
    response = server.send("GET", "/v1/reviews")
    assert error(response) == (500, "internal_error", {})
    assert b"division" not in response.body
    assert "division by zero" in caplog.text


def test_waiting_is_bounded_in_all_for_each_customer_and_in_time(server, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(Records, "reviews", lambda *_: gate.wait(10) and [])
    bounds = Bounds(threads=1, waiting=3, waiting_of_one=2, waiting_first=0, seconds=0.5)
    front = front_of(server.settings, Link(server.settings), bounds)

    async def body() -> bytes:
        return b""

    async def send(key: str) -> Response:
        head = Head(method="GET", path="/v1/reviews", request_id="r",
                    authorization=f"Bearer {server.keys[key]}")
        return await front.handle(head, body)

    async def crowd() -> list[Response]:
        waiting = [asyncio.ensure_future(send(key))
                   for key in ("all", "all", "all", "other", "other")]
        await asyncio.sleep(0.1)
        alive = await front.handle(Head(method="GET", path="/livez", request_id="r"), body)
        assert alive.status == 200
        return await asyncio.gather(*waiting)

    answers = asyncio.run(crowd())
    gate.set()
    assert [error(answer)[:2] for answer in answers] == [
        (504, "deadline_exceeded"), (504, "deadline_exceeded"), (429, "too_many_requests"),
        (504, "deadline_exceeded"), (503, "busy"),
    ]
    assert all(answer.headers["Retry-After"] == "1" for answer in answers)
    assert asyncio.run(send("all")).status == 200


def test_not_ready_is_said_when_the_release_does_not_find_itself(server, monkeypatch):
    assert server.send("GET", "/readyz", key=None).status == 200
    monkeypatch.setattr(Retriever, "passes_self_query", lambda _: False)
    assert error(server.send("GET", "/readyz", key=None))[:2] == (503, "not_ready")
    assert server.send("GET", "/livez", key=None).status == 200


# The document


def test_every_route_is_documented_with_its_scope_and_no_other():
    documented = {
        (op.method.upper(), op.path): {None: "open", "": "any key"}.get(op.scope, op.scope)
        for op in OPERATIONS
    }
    own = ("GET", "/v1/customers/{customer}/consistency")
    assert documented.pop(own) == "any key"
    assert documented == {
        pair: scope for pair, (_, scope) in ROUTES.items() if pair != ("GET", "/")
    }


def test_answers_obey_the_documents_schemas(server):
    document = json.loads(server.send("GET", "/openapi.json", key=None).body)
    assert document == json.loads(json.dumps(openapi_document()))

    def check(name, content):
        Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components":
                              document["components"]}).validate(content)

    check("QueryAnswer", server.ask([{"embedding": embedding(server, 50)}])[1])
    for name, path in (
        ("ErrorAnswer", "/none"), ("ReleaseAnswer", "/v1/release"), ("ReadyAnswer", "/readyz"),
        ("LiveAnswer", "/livez"), ("ConsistencyAnswer", "/v1/consistency"),
        ("OwnConsistencyAnswer", "/v1/customers/Food%20%26%20Drink/consistency"),
    ):
        check(name, json.loads(server.send("GET", path).body))


def test_the_page_shows_every_path_and_loads_nothing_from_elsewhere(server):
    page = server.send("GET", "/docs", key=None).body.decode()
    for operation in OPERATIONS:
        assert f"{operation.method.upper()} {operation.path}</code>" in page
    assert "://" not in page
    assert "<script" not in page
    assert server.send("GET", "/", key=None).headers["Location"] == "/docs"


def test_a_request_id_of_the_client_is_kept_if_it_is_one():
    assert request_id("abc-1") == "abc-1"
    for sent in (None, "", "x" * 129, "a b", "a\nb", "é"):
        assert request_id(sent) != sent


def test_keys_of_the_fixture_are_hashed(server):
    stored = Path(server.settings.keys).read_text()
    assert all(token not in stored for token in server.keys.values())
    assert len(read_key_file(Path(server.settings.keys)).keys) >= 4
