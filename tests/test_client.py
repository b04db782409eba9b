"""The Python client against the real front behind a real socket, and against a bad network."""

import asyncio
import random
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import orjson
import pytest

from pipeline.distance import deciding
from serving.access.admission import Head
from serving.client import (
    AnswerError,
    AsyncClient,
    Client,
    ConflictError,
    DeadlineError,
    ForbiddenError,
    InvalidRequestError,
    Item,
    LimenError,
    NotFoundError,
    Query,
    ReleaseChangedError,
    ServerFaultError,
    TooManyRequestsError,
    UnauthenticatedError,
    UnavailableError,
    UnexpectedAnswerError,
    UnreachableError,
    Verdict,
)
from serving.client.attempts import LONGEST_WAIT, Attempts
from tests.serving_release import CUSTOMERS, DIMENSION, THRESHOLD


class Script(BaseHTTPRequestHandler):
    """Answers what the test wrote down, in turn; the last answer again and again."""

    protocol_version = "HTTP/1.1"

    def do_any(self):
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.seen.append((self.command, self.path, dict(self.headers), body))
        answer = server.answers[min(len(server.seen), len(server.answers)) - 1]
        if answer == "hang up":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        status, headers, content = answer(self) if callable(answer) else answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(BrokenPipeError):  # the client did not wait for it
            self.wfile.write(content)

    def log_message(self, *_):
        pass


for method in ("GET", "POST", "PUT", "DELETE"):
    setattr(Script, f"do_{method}", Script.do_any)


@contextmanager
def scripted(*answers):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Script)
    server.answers, server.seen, server.daemon_threads = answers, [], True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def refusal(status, code, retry_after=None, details=None):
    body = {"error": {"code": code, "message": f"why {code}", "details": details or {}},
            "request_id": "r-7"}
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return status, headers, orjson.dumps(body)


RELEASE = (200, {}, orjson.dumps({
    "release": "3f9c", "dimension": 12, "kind": "image", "request_id": "r", "of_next_year": [1],
    "threshold": {"value": 0.41, "source": "calibrated", "rule": "distance <= threshold"},
    "calibration": {"rule": "far", "range": [0.3, 0.6], "guarantee": "none"},
}))
KEPT = (202, {}, b'{"accepted": 1, "repeated": 0, "request_id": "r"}')
PUT = (200, {}, b'{"accepted": 1, "change": 5, "request_id": "r"}')
MOVED = (200, {}, b'{"alias": "a", "release": "b", "replicas": 1, "swapped": 1, "request_id": "r"}')
BUSY = refusal(503, "busy", 0)


def test_importing_the_client_brings_nothing_heavy():
    heavy = ("faiss", "ray", "torch", "onnxruntime", "numba", "starlette", "pyarrow", "sqlalchemy",
             "pipeline", "scipy", "pandas", "grpc")
    code = ("import sys, serving.client; "
            f"print(sorted(set(sys.modules) & set({heavy!r})))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_answer_of_a_newer_server_is_read_and_one_of_another_server_is_refused():
    with scripted(RELEASE) as server, Client(server.url, key="k") as limen:
        facts = limen.release()
        assert (facts.release, facts.threshold.value, facts.calibration.range) == (
            "3f9c", 0.41, (0.3, 0.6))
        assert server.seen[0][2]["Authorization"] == "Bearer k"
    for content in (b"<html>", b"[]", b'{"release": "3f9c"}'):
        with scripted((200, {}, content)) as server, Client(server.url) as limen, pytest.raises(
            UnexpectedAnswerError
        ):
            limen.release()


@pytest.mark.parametrize(("status", "code", "kind"), [
    (400, "invalid_json", InvalidRequestError), (413, "body_too_large", InvalidRequestError),
    (422, "invalid_query", InvalidRequestError), (401, "unauthenticated", UnauthenticatedError),
    (403, "forbidden", ForbiddenError), (404, "unknown_pair", NotFoundError),
    (409, "verdict_contradicted", ConflictError), (409, "release_changed", ReleaseChangedError),
    (500, "internal_error", ServerFaultError), (504, "deadline_exceeded", ServerFaultError),
])
def test_a_refusal_is_an_exception_of_its_kind_and_is_not_tried_again(status, code, kind):
    with scripted(refusal(status, code, 1, {"index": 2})) as server, Client(server.url) as limen:
        with pytest.raises(kind, match=rf"why {code} \({status} {code}\)") as refused:
            limen.query([Query(text="a")])
        assert len(server.seen) == 1
    error = refused.value
    assert type(error) is kind
    assert (error.status, error.code, error.message, error.details, error.request_id) == (
        status, code, f"why {code}", {"index": 2}, "r-7")


def test_a_page_of_a_proxy_is_an_error_too():
    page = b"<h1>Bad Gateway</h1>\nnginx"
    with scripted((502, {}, page)) as server, Client(server.url) as limen, pytest.raises(
        ServerFaultError, match="<h1>Bad Gateway</h1>"
    ) as refused:
        limen.release()
    assert (refused.value.status, refused.value.code) == (502, "unknown")


@pytest.mark.parametrize("failure", [BUSY, refusal(429, "too_many_requests", 0), "hang up"])
@pytest.mark.parametrize("method", ["query", "verdicts", "release", "put_items", "delete_item"])
def test_what_can_be_done_twice_is_tried_again(failure, method):
    answers = {"query": QUERY_ANSWER, "verdicts": KEPT, "release": RELEASE, "put_items": PUT,
               "delete_item": PUT}
    given = {"query": [[Query(text="a")]], "release": [], "delete_item": ["a/b"],
             "verdicts": [[Verdict(query_id="q", item_id="i", is_match=True)]],
             "put_items": [[Item(item_id="i", text="a")]]}
    with scripted(failure, failure, answers[method]) as server, Client(server.url) as limen:
        getattr(limen, method)(*given[method])
        assert len(server.seen) == 3
        assert len({(command, path, body) for command, path, _, body in server.seen}) == 1
        keys = {headers.get("Idempotency-Key") for _, _, headers, _ in server.seen}
    assert len(keys) == 1
    assert (keys != {None}) == (method in ("put_items", "delete_item"))


QUERY_ANSWER = (200, {}, orjson.dumps({
    "release": "r", "threshold": {"value": 0.4, "source": "calibrated", "rule": "x"},
    "results": [], "request_id": "r",
}))


@pytest.mark.parametrize("failure", [BUSY, "hang up"])
@pytest.mark.parametrize(("method", "given"), [("promote", ["3f9c"]), ("rollback", [])])
def test_what_may_not_be_done_twice_is_not_tried_again(failure, method, given):
    with scripted(failure, MOVED) as server, Client(server.url) as limen:
        with pytest.raises(UnreachableError if failure == "hang up" else UnavailableError):
            getattr(limen, method)(*given)
        assert len(server.seen) == 1


def test_every_put_has_an_idempotency_key_of_its_own():
    with scripted(PUT) as server, Client(server.url) as limen:
        for _ in range(2):
            limen.put_items([Item(item_id="i", text="a")])
        assert len({headers["Idempotency-Key"] for _, _, headers, _ in server.seen}) == 2


def test_nobody_there_is_one_clear_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}", seconds=0.5) as limen, pytest.raises(
        UnreachableError, match=rf"127.0.0.1:{port}.*no answer .*is `limen serve` running there\?$"
    ):
        limen.release()
    with pytest.raises(ValueError, match="expected a URL such as"):
        Client("localhost:8000")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_no_key_is_refused_without_being_quoted(kind):
    for key in ("lim_1_SECRET 2", "lim_1_SECRET\n2", "lim_\u00e9_SECRET", "lim_1_SECRET\0"):
        with pytest.raises(ValueError, match="key: expected what `limen keys add`") as refused:
            kind("http://127.0.0.1:9", key=key)
        assert "SECRET" not in "".join(traceback.format_exception(refused.value))


def test_a_key_read_from_a_file_is_sent_without_its_line_end():
    with scripted(RELEASE) as server, Client(server.url, key="lim_1_s\n") as limen:
        limen.release()
        assert server.seen[0][2]["Authorization"] == "Bearer lim_1_s"


def test_a_deadline_holds_for_a_silent_server_and_for_one_that_trickles():
    gate = threading.Event()

    def silent(_):
        gate.wait(20)
        return RELEASE

    def trickling(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not gate.wait(0.05):
            try:
                handler.wfile.write(b" ")
            except OSError:
                break
        handler.close_connection = True
        return 200, {}, b""

    async def awaited(url):
        async with AsyncClient(url, seconds=0.4) as limen:
            await limen.release()

    def waited(url):
        with Client(url, seconds=0.4) as limen:
            limen.release()

    for answer in (silent, trickling):
        for call in (waited, lambda url: asyncio.run(awaited(url))):
            gate.clear()
            with scripted(answer) as server:
                with pytest.raises(DeadlineError, match=r"no answer in 0\.4 s"):
                    call(server.url)
                told = int(server.seen[0][2]["X-Limen-Timeout-Ms"])
                gate.set()
            assert 0 < told <= 400


def test_both_clients_wait_before_they_try_again_as_long_as_they_are_asked_to():
    async def awaited(url):
        async with AsyncClient(url) as limen:
            await limen.release()

    def waited(url):
        with Client(url) as limen:
            limen.release()

    for call in (waited, lambda url: asyncio.run(awaited(url))):
        moments = []

        def noted(answer, moments=moments):
            return lambda _: moments.append(time.monotonic()) or answer

        with scripted(noted(refusal(503, "busy", 1)), noted(RELEASE)) as server:
            call(server.url)
        first, second = moments
        assert second - first >= 1.0


def waits(failure, seconds=100.0, repeatable=True, tries=12, seed=0):
    """What ``Attempts`` waits after each failure, on a clock that only the waits move."""
    now = [50.0]
    attempts = Attempts(seconds, repeatable, lambda: now[0], random.Random(seed))
    waited = []
    for _ in range(tries):
        with suppress(type(failure)):
            waited.append(attempts.pause(failure))
            now[0] += waited[-1]
            continue
        break
    return waited


def unavailable(retry_after):
    return UnavailableError(503, "busy", "", {}, None, retry_after)


def test_waits_are_drawn_below_a_bound_that_doubles_up_to_the_longest():
    drawn = np.asarray([waits(UnreachableError("x"), seed=seed) for seed in range(200)])
    bounds = np.minimum(0.1 * 2.0 ** np.arange(12), LONGEST_WAIT)
    assert (drawn <= bounds).all()
    assert (drawn.max(axis=0) > 0.9 * bounds).all()
    np.testing.assert_allclose(drawn.mean(axis=0), bounds / 2, rtol=0.25)


def test_what_the_server_asks_to_wait_is_waited_first():
    for failure in (unavailable(3.0), TooManyRequestsError(429, "", "", {}, None, 3.0)):
        assert all(3.0 <= wait <= 3.0 + LONGEST_WAIT for wait in waits(failure))


def test_no_wait_passes_the_deadline_and_what_is_refused_stays_refused():
    assert sum(waits(unavailable(None), seconds=2.0, tries=1000)) < 2.0
    assert waits(unavailable(30.0), seconds=20.0) == []
    assert waits(unavailable(0.0), repeatable=False) == []
    assert waits(ServerFaultError(504, "", "", {}, None, 1.0)) == []


# Against the server's own front, behind a socket


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    from tests.test_api import Server

    made = Server(tmp_path_factory.mktemp("client"))
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def through_the_front(handler):
        _, _, headers, body = handler.server.seen[-1]
        headers = {name.lower(): value for name, value in headers.items()}

        async def read():
            return body

        path, _, query = handler.path.partition("?")
        head = Head(
            method=handler.command, path=path, query=query, request_id="r",
            authorization=headers.get("authorization", ""),
            idempotency_key=headers.get("idempotency-key", ""),
            timeout_ms=headers.get("x-limen-timeout-ms", ""),
        )
        response = asyncio.run_coroutine_threadsafe(made.front.handle(head, read), loop).result()
        return response.status, dict(response.headers), response.body

    with scripted(through_the_front) as server:
        made.url = server.url
        yield made
    loop.call_soon_threadsafe(loop.stop)


@pytest.fixture
def limen(live):
    with Client(live.url, key=live.keys["all"]) as client:
        yield client


def brute(live, row):
    rows = live.world.rows_of(CUSTOMERS[0])
    distances = deciding(live.world.vectors[[row]], live.world.vectors[rows])[0]
    pairs = zip(distances.tolist(), live.world.items.item_id[rows], strict=True)
    return sorted((d, i) for d, i in pairs if d <= THRESHOLD)


def test_answers_are_those_of_brute_force_and_pages_add_up(live, limen):
    vectors = live.world.vectors
    answer = limen.query(vectors[[50, 51]], limit=1000, metadata=True)
    assert answer.release == live.world.release.id12
    for row, result in zip((50, 51), answer.results, strict=True):
        assert [(m.distance, m.item_id) for m in result.matches] == brute(live, row)
        assert result.match_count == len(result.matches)
        assert "name" in result.matches[0].metadata
    for page in (1, 2, 1000):
        paged = [(m.distance, m.item_id) for m in limen.matches(
            Query(embedding=vectors[50].astype(np.float64)), page=page)]
        assert paged == brute(live, 50)


def test_every_content_and_the_rest_of_the_methods_reach_their_operation(live, limen, tmp_path):
    image = live.world.items.content[77]
    (tmp_path / "a.png").write_bytes(image)
    row = live.world.vectors[77]
    answer = limen.query([Query(image=image, id="i"), Query(image=tmp_path / "a.png"),
                          Query(embedding=row.tolist())], exact=True)
    assert [result.id for result in answer.results] == ["i", None, None]
    assert answer.results[0].matches == answer.results[1].matches == answer.results[2].matches
    with pytest.raises(InvalidRequestError, match="this release embeds images") as refused:
        limen.query([Query(image=image), Query(text="a")])
    assert refused.value.details["index"] == 1
    wide = limen.query([Query(embedding=row)], threshold=2.0)
    assert (wide.threshold.value, wide.threshold.source) == (2.0, "request")
    reviews = limen.reviews(1000)
    given = [Verdict(query_id=r.query_id, item_id=r.item_id, draw_id=r.draw_id, is_match=True)
             for r in reviews]
    assert limen.verdicts(given).accepted == len(given) > 0
    assert limen.verdicts(given).repeated == len(given)
    assert limen.release().dimension == DIMENSION
    assert limen.consistency().release == answer.release
    assert limen.own_consistency(CUSTOMERS[0]).customer == CUSTOMERS[0]
    with pytest.raises(NotFoundError):
        limen.own_consistency(CUSTOMERS[1])


def test_items_come_and_go(live, limen):
    row = live.world.vectors[200]
    own = Item(item_id="new / item", embedding=row, metadata={"name": "x", "number": 3})
    kept = limen.put_items([own])
    assert kept.accepted == 1
    found = {match.item_id: match for match in limen.matches(Query(embedding=row), metadata=True)}
    assert found["new / item"].metadata == {"name": "x", "number": 3}
    assert limen.delete_item("new / item") > kept.change
    assert "new / item" not in {match.item_id for match in limen.matches(Query(embedding=row))}
    with pytest.raises(NotFoundError):
        limen.delete_item("new / item")


@pytest.mark.parametrize("query", [Query(), Query(text="a", image=b"b")])
def test_a_query_without_a_content_or_with_two_is_refused_before_it_is_sent(limen, query):
    with pytest.raises(ValueError, match="Query: expected exactly one of embedding, vector, text"):
        limen.query([query])


def test_the_client_to_await_does_the_same(live):
    async def ask():
        async with AsyncClient(live.url, key=live.keys["all"]) as limen:
            one, two = await asyncio.gather(limen.release(), limen.query(live.world.vectors[[50]]))
            query = Query(embedding=live.world.vectors[50])
            paged = [match async for match in limen.matches(query, page=2)]
            with pytest.raises(NotFoundError):
                await limen.own_consistency("x")
            return one, two, paged

    facts, answer, paged = asyncio.run(ask())
    assert facts.release == answer.release
    assert [(m.distance, m.item_id) for m in paged] == brute(live, 50)


def test_the_client_to_await_tries_again_and_has_a_deadline():
    async def ask(url):
        async with AsyncClient(url, seconds=0.5) as limen:
            assert (await limen.release()).release == "3f9c"
            with pytest.raises(DeadlineError):
                await limen.release()

    with scripted(BUSY, "hang up", RELEASE, lambda _: time.sleep(2) or RELEASE) as server:
        asyncio.run(ask(server.url))
        assert len(server.seen) == 4
    assert issubclass(DeadlineError, LimenError)
    assert issubclass(AnswerError, LimenError)


# The verbs


def limen_says(verb, live, *arguments, key="all"):
    from typer.testing import CliRunner

    from jobs.cli import _app_of

    return CliRunner().invoke(_app_of(verb), [
        *arguments, "--server", live.url, "--key", live.keys.get(key, key),
    ], env={"COLUMNS": "200", "TERM": "xterm-kitty"})


def test_the_verbs_print_what_the_client_reads(live, tmp_path):
    (tmp_path / "q.png").write_bytes(live.world.items.content[50])
    np.save(tmp_path / "rows.npy", live.world.vectors[[51, 346]])
    said = limen_says("query", live, "--image", str(tmp_path / "q.png"),
                      "--embedding", str(tmp_path / "rows.npy"))
    assert said.exit_code == 0, said.output
    assert live.world.items.item_id[50] in said.output
    assert f"release {live.world.release.id12}, calibrated threshold 0.050000" in said.output
    assert said.output.count("nearest rejected") == 3
    assert "\x1b_G" not in said.output  # no picture where no terminal is
    listed = limen_says("verdicts", live, "list", "--json", "--budget", "3")
    verdicts = orjson.loads(listed.output)
    for verdict in verdicts["verdicts"]:
        verdict["is_match"] = True
    (tmp_path / "v.json").write_bytes(orjson.dumps(verdicts))
    sent = limen_says("verdicts", live, "send", "--file", str(tmp_path / "v.json"))
    assert f"{len(verdicts['verdicts'])} verdicts kept, 0 were there already." in sent.output
    assert CUSTOMERS[0] in limen_says("drift", live).output


def test_what_an_item_is_called_is_no_command_to_a_terminal(live, limen, tmp_path):
    np.save(tmp_path / "row.npy", live.world.vectors[[51]])
    limen.put_items([Item(item_id="\x1b]0;mine\x07[red]", embedding=live.world.vectors[51],
                          metadata={"name": "\x9b31m"})])
    said = limen_says("query", live, "--embedding", str(tmp_path / "row.npy"))
    assert "?]0;mine?[red]" in said.output
    assert "name=?31m" in said.output
    assert not {"\x1b", "\x07", "\x9b"} & set(said.output)
    limen.delete_item("\x1b]0;mine\x07[red]")


@pytest.mark.parametrize(("verb", "arguments", "line"), [
    ("query", ["--text", "a cat"], "this release embeds images; send 'image' or an embedding"),
    ("query", [], "nothing to ask: pass --image FILE, --text TEXT"),
    ("query", ["--image", "gone.png"], "gone.png: No such file or directory; expected an image"),
    ("verdicts", ["send", "--file", "gone.json"], "gone.json: not a JSON file"),
])
def test_a_verb_ends_with_one_line_where_something_is_wrong(live, capsys, verb, arguments, line):
    said = limen_says(verb, live, *arguments)
    text = said.output + capsys.readouterr().err + str(said.exception or "")
    assert said.exit_code == 1
    assert line in " ".join(text.split())
