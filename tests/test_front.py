"""The door: who is turned away before any work, who in time, and what the trail tells of it."""

import asyncio
import json
import threading
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from pipeline.live.database import Database
from pipeline.live.decisions import RecordsError
from pipeline.live.records import Records
from pipeline.live.tables import DECISIONS
from pipeline.trail import Trail
from serving.access import refusal_trail
from serving.access.admission import Head
from serving.access.key_file import Key, Limit
from serving.access.keys import add_key, set_limit
from serving.access.refusal_trail import REFUSED, RefusalTrail
from serving.answers.answering import Answering
from serving.assembly import front_of
from serving.counters import Counters
from serving.responses import RefusedError
from serving.schema.bodies import MAX_BODY_BYTES
from serving.web.front import Bounds
from tests.test_api import Link, Server, embedding, error


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    return Server(tmp_path_factory.mktemp("front"))


def head(server, key="all", path="/v1/reviews", method="GET", **fields):
    token = server.keys.get(key, key)
    return Head(method=method, path=path, request_id="r-1",
                authorization=f"Bearer {token}" if token else "", **fields)


async def no_body():
    return b""


async def never_read():
    raise AssertionError("the body was read")


def query(server, count=1):
    body = json.dumps({"queries": [{"embedding": embedding(server)}] * count}).encode()

    async def read():
        return body

    return read


def front(server, **bounds):
    return front_of(server.settings, Link(server.settings), Bounds(**bounds))


@pytest.fixture
def limited(server):
    """Limits for the test; none after it."""
    path = Path(server.settings.keys)
    names = []

    def limit(key, **fields):
        names.append(key)
        set_limit(path, key, Limit(**fields))

    yield limit
    for name in names:
        set_limit(path, name, None)


# Limits


def test_a_customer_over_its_rate_is_refused_before_its_body_and_the_others_are_not(
    server, limited
):
    limited("Food & Drink", per_second=0.01, burst=10)
    door = front(server)

    async def ask(key, read):
        return await door.handle(head(server, key, "/v1/query", "POST"), read)

    async def all_of_them():
        assert (await ask("all", query(server, 10))).status == 200
        refused = await ask("all", never_read)
        assert error(refused)[:2] == (429, "rate_limited")
        assert 50 < int(refused.headers["Retry-After"]) <= 100
        assert (await ask("other", query(server, 10))).status == 200
        limited("Food & Drink", per_second=1000.0, burst=1000)  # no restart
        await asyncio.sleep(0.01)
        assert (await ask("all", query(server))).status == 200

    asyncio.run(all_of_them())


def test_requests_at_once_are_bounded_by_the_customers_limit(server, limited, monkeypatch):
    limited("Food & Drink", at_once=2)
    gate = threading.Event()
    monkeypatch.setattr(Records, "reviews", lambda *_: gate.wait(10) and [])
    door = front(server)

    async def crowd():
        waiting = [asyncio.ensure_future(door.handle(head(server), no_body)) for _ in range(3)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        gate.set()
        return [answer.result() for answer in done], await asyncio.gather(*waiting)

    first, answers = asyncio.run(crowd())
    assert [error(answer)[:2] for answer in first] == [(429, "too_many_requests")]
    assert sorted(answer.status for answer in answers) == [200, 200, 429]


def test_customers_that_take_all_the_places_keep_no_other_from_its_first(server, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(Records, "reviews", lambda *_: gate.wait(10) and [])
    keys = Path(server.settings.keys)
    late, last = (add_key(keys, name, ["verdict"]) for name in ("late", "last"))
    door = front(server, waiting=3, waiting_of_one=2, waiting_first=1)

    async def crowd():
        asked = [asyncio.ensure_future(door.handle(head(server, key), no_body))
                 for key in ("all", "all", "other", "other", late, late, last)]
        await asyncio.sleep(0.1)
        gate.set()
        return await asyncio.gather(*asked)

    # Three places are taken; "other" has one of them, "late" gets the one beyond, once.
    statuses = [answer.status for answer in asyncio.run(crowd())]
    assert statuses == [200, 200, 200, 503, 200, 503, 503]


# Time


@pytest.mark.parametrize("sent", ["0", "-1", "1.5", "x", "1" * 10, "٣", "00"])
def test_a_timeout_that_is_none_is_refused(server, sent):
    response = asyncio.run(server.front.handle(head(server, timeout_ms=sent), never_read))
    assert error(response) == (400, "invalid_request", {"field": "X-Limen-Timeout-Ms"})


def test_a_client_waits_as_long_as_it_says_and_no_longer_than_the_server_lets_it(
    server, monkeypatch
):
    seen = []

    def noting(self, request, key, request_id, deadline):
        seen.append(deadline - time.monotonic())
        raise RefusedError(400, "invalid_request", "noted")

    monkeypatch.setattr(Answering, "answer", noting)
    for sent in ("5000", "999999999", ""):
        asyncio.run(server.front.handle(
            head(server, path="/v1/query", method="POST", timeout_ms=sent), query(server)
        ))
    assert 4 < seen[0] <= 5
    assert 25 < seen[1] <= 30
    assert 25 < seen[2] <= 30


def test_work_whose_deadline_passed_while_it_waited_is_never_begun(server, monkeypatch):
    gate, done = threading.Event(), []
    monkeypatch.setattr(Records, "reviews", lambda *_: gate.wait(10) and [])
    monkeypatch.setattr(Answering, "answer", lambda *_: done.append(1))
    door = front(server, threads=1)

    async def crowd():
        holding = asyncio.ensure_future(door.handle(head(server), no_body))
        await asyncio.sleep(0.05)
        late = await door.handle(
            head(server, "other", "/v1/query", "POST", timeout_ms="50"), query(server)
        )
        gate.set()
        await holding
        return late

    assert error(asyncio.run(crowd()))[:2] == (504, "deadline_exceeded")
    assert done == []


def test_a_monitor_that_is_away_is_told_as_such(server):
    class Away:
        """Its replica was killed."""

        async def metrics(self):
            raise ConnectionError("the actor died, 10.0.0.3:7201")

        async def consistency(self, _):
            return await self.metrics()

    door = front_of(server.settings, Away(), Bounds())
    own = "/v1/customers/Food%20%26%20Drink/consistency"
    for path in ("/metrics", "/v1/consistency", own):
        response = asyncio.run(door.handle(head(server, path=path), no_body))
        assert error(response) == (503, "monitor_unavailable", {})
        assert "Retry-After" in response.headers
        assert b"10.0.0.3" not in response.body


def test_work_of_a_client_that_left_is_never_begun(server, monkeypatch):
    gate, done = threading.Event(), []
    monkeypatch.setattr(Records, "reviews", lambda *_: gate.wait(10) and [])
    monkeypatch.setattr(Answering, "answer", lambda *_: done.append(1))
    door = front(server, threads=1)

    async def crowd():
        holding = asyncio.ensure_future(door.handle(head(server), no_body))
        await asyncio.sleep(0.05)
        leaving = asyncio.ensure_future(
            door.handle(head(server, "other", "/v1/query", "POST"), query(server))
        )
        await asyncio.sleep(0.05)
        leaving.cancel()
        await asyncio.wait({leaving})
        assert not door._waiting["birds/sea"]
        gate.set()
        return await holding

    assert asyncio.run(crowd()).status == 200
    assert done == []


def test_a_body_that_comes_too_slowly_gives_its_place_back(server):
    door = front(server, body_seconds=0.05)

    async def trickle():
        await asyncio.sleep(10)

    response = asyncio.run(door.handle(head(server, path="/v1/query", method="POST"), trickle))
    assert error(response)[:2] == (408, "body_too_slow")
    assert not door._waiting


def test_a_body_announced_too_large_is_refused_unread(server):
    big = head(server, path="/v1/query", method="POST", content_length=MAX_BODY_BYTES + 1)
    assert error(asyncio.run(server.front.handle(big, never_read)))[:2] == (413, "body_too_large")


def test_whoever_would_wait_too_long_is_told_at_once(server, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(Records, "reviews", lambda *_: gate.wait(10) and [])
    door = front(server, threads=1, patience=0.05)

    async def crowd():
        gate.clear()
        first = asyncio.ensure_future(door.handle(head(server), no_body))
        await asyncio.sleep(0.3)
        gate.set()
        await first  # from now on a review is known to take 0.3 s, or little less
        while door._threads._running:  # its thread is free a moment after its answer is there
            await asyncio.sleep(0.001)
        gate.clear()
        waiting = [asyncio.ensure_future(door.handle(head(server), no_body)) for _ in range(2)]
        await asyncio.sleep(0.05)
        turned_away = await door.handle(head(server), never_read)
        gate.set()
        return turned_away, await asyncio.gather(*waiting)

    turned_away, kept = asyncio.run(crowd())
    assert error(turned_away)[:2] == (503, "busy")
    assert turned_away.headers["Retry-After"] == "1"
    assert [answer.status for answer in kept] == [200, 200]


def test_readiness_is_looked_at_once_however_many_ask(server, monkeypatch):
    looks, gate = [], threading.Event()
    door = front(server)
    monkeypatch.setattr(Answering, "is_ready", lambda _: looks.append(1) or gate.wait(10))

    async def crowd():
        asked = [
            asyncio.ensure_future(door.handle(head(server, "", "/readyz"), never_read))
            for _ in range(500)
        ]
        await asyncio.sleep(0.05)
        gate.set()
        return await asyncio.gather(*asked)

    assert {answer.status for answer in asyncio.run(crowd())} == {200}
    assert len(looks) == 1


# Refusals in the trail


@pytest.fixture
def trail(tmp_path):
    return Trail(tmp_path / "trail.jsonl")


def lines(trail):
    return [json.loads(line) for line in trail.path.read_text().splitlines()]


KEY = Key(id="0a0b0c0d", customer="a", scopes=("query",), sha256="0" * 64)


def quiet(monkeypatch):
    """No thread of its own: the test writes when it wants."""
    idle = SimpleNamespace(start=lambda: None)
    monkeypatch.setattr(refusal_trail, "threading", SimpleNamespace(
        Lock=threading.Lock, Event=threading.Event, Thread=lambda **_: idle,
    ))


def test_equal_refusals_are_one_line_with_their_number(trail, monkeypatch):
    quiet(monkeypatch)
    counters = Counters()
    refusals = RefusalTrail(trail, counters)
    for number in range(10_000):
        refusals.note(RefusedError(429, "rate_limited", "no"), KEY, "query", f"r{number}")
    refusals.note(RefusedError(401, "unauthenticated", "no"), None, None, "s")
    refusals.write()
    first, second = lines(trail)
    del first["time"], second["time"]
    assert first == {
        "event": "refused", "status": 429, "code": "rate_limited", "operation": "query",
        "customer": "a", "key_id": "0a0b0c0d", "count": 10_000, "request_id": "r0",
    }
    assert (second["code"], second["count"], second["customer"]) == ("unauthenticated", 1, None)
    assert counters.totals()["limen_refused", ("rate_limited",)] == 10_000
    refusals.write()
    assert len(lines(trail)) == 2


def test_many_kinds_of_refusals_are_bounded_and_none_is_uncounted(trail, monkeypatch):
    quiet(monkeypatch)
    refusals = RefusalTrail(trail, Counters())
    for number in range(1000):
        key = Key(id=f"{number:08x}", customer=str(number), scopes=(), sha256="")
        for code in ("forbidden", "rate_limited"):
            refusals.note(RefusedError(403, code, "no"), key, "query", "r")
    refusals.write()
    kept = lines(trail)
    assert len(kept) <= refusal_trail.KINDS + 2
    assert sum(line["count"] for line in kept) == 2000


def test_a_single_refusal_is_in_the_trail_without_waiting(server):
    path = Path(server.settings.keys).with_name("trail.jsonl")
    before = path.read_text()
    door = front(server)
    response = asyncio.run(door.handle(head(server, "query", "/v1/reviews"), never_read))
    assert response.status == 403
    deadline = time.monotonic() + 5
    while (new := path.read_text()[len(before):]).count("\n") < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    serving, refused = map(json.loads, new.splitlines())
    assert serving["event"] == "serving"
    assert serving["release"] == server.world.release.id12
    assert (refused["code"], refused["key_id"]) == ("forbidden", server.keys["query"].split("_")[1])
    assert refused["customer"] == "Food & Drink"


def test_what_was_refused_last_is_in_the_trail_of_a_server_that_ends_in_order(
    server, trail, monkeypatch
):
    quiet(monkeypatch)
    door = front(server)
    monkeypatch.setattr(door._refusals, "_trail", trail)
    for _ in range(3):
        asyncio.run(door.handle(head(server, "nobody's"), never_read))
    assert not trail.path.exists()
    door.close()
    told, = lines(trail)
    assert (told["code"], told["count"]) == ("unauthenticated", 3)


def test_a_full_disk_refuses_overrides_and_nothing_else(server, monkeypatch, caplog):
    quiet(monkeypatch)
    door = front(server)
    monkeypatch.setattr(door._api._trail, "path", Path("/dev/full"))
    monkeypatch.setattr(door._refusals, "_trail", door._api._trail)

    def ask(**fields):
        body = json.dumps({"queries": [{"embedding": embedding(server)}], **fields}).encode()

        async def read():
            return body

        return asyncio.run(door.handle(head(server, path="/v1/query", method="POST"), read))

    assert ask().status == 200
    refused = ask(threshold=0.2)
    assert error(refused)[:2] == (503, "trail_unavailable")
    assert b"/dev/full" not in refused.body
    door._refusals.write()
    assert "1 refusals are not in the trail" in caplog.text
    assert ask().status == 200


def test_an_override_is_in_the_trail_before_it_is_answered(server):
    path = Path(server.settings.keys).with_name("trail.jsonl")
    assert server.ask([{"embedding": embedding(server)}], threshold=0.25)[0] == 200
    override = [json.loads(line) for line in path.read_text().splitlines()
                if '"override"' in line][-1]
    assert override["threshold"] == 0.25
    assert override["key_id"] == server.keys["all"].split("_")[1]
    assert override["request_id"] == "r-1"
    assert override["release"] == server.world.release.id12


def test_an_expired_key_is_told_so_and_noted(server):
    path = Path(server.settings.keys)
    token = add_key(path, "late", ["query"], expires_at=1.0)
    response = asyncio.run(server.front.handle(head(server, token), never_read))
    assert error(response)[:2] == (401, "key_expired")
    assert "WWW-Authenticate" in response.headers
    assert token.split("_", 2)[2].encode() not in response.body


def test_an_error_of_the_database_does_not_tell_what_was_written(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'records.db'}")
    row = {"query_id": "q", "release": "r", "customer": "nobody's business"}
    with pytest.raises(RecordsError) as error, database.write() as connection:
        connection.execute(sa.insert(DECISIONS), [row])
    assert "NOT NULL" in str(error.value)
    assert "nobody" not in "".join(traceback.format_exception(error.value))


def test_no_secret_and_no_embedding_is_in_any_log_or_trail(server, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    quiet(monkeypatch)
    door = front(server)
    token = server.keys["all"]
    secret = token.split("_", 2)[2]
    wrong = token[:-1] + ("x" if token[-1] != "x" else "y")

    def send(sent, path, body=b"{}", method="POST", request_id="r", **fields):
        async def read():
            return body

        sent_head = Head(method=method, path=path, authorization=f"Bearer {sent}",
                         request_id=request_id, **fields)
        return asyncio.run(door.handle(sent_head, read))

    coordinate = str(embedding(server)[0])
    asked = json.dumps({"queries": [{"embedding": embedding(server)}], "threshold": 0.3}).encode()
    responses = [
        send(token, "/v1/query", asked), send(wrong, "/v1/query", asked),
        send(token, f"/v1/{token}"), send(token, "/v1/query", request_id=token),
        send(token, "/v1/reviews", method="GET", query=f"budget={token}"),
        send(token, f"/v1/customers/{token}/consistency", method="GET"),
        send(token, "/v1/query", timeout_ms=token),
        send(token, "/v1/query", asked.replace(b"0.3}", b'0.3, "x": 1}')),
    ]
    monkeypatch.setattr(Answering, "answer", lambda *_: 1 / 0)
    responses.append(send(token, "/v1/query", asked))
    assert responses[0].status == 200
    assert responses[-1].status == 500
    door._refusals.write()
    trail = Path(server.settings.keys).with_name("trail.jsonl").read_text()
    assert trail.count('"refused"') > 4
    assert "division by zero" in caplog.text
    for text in (trail, caplog.text):
        assert secret not in text
        assert wrong.split("_", 2)[2] not in text
        assert coordinate not in text
    assert REFUSED.name == "limen_refused"
