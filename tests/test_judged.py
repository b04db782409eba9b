"""A server as a judge would try it: over Ray and HAProxy, with two replicas, by the thousand."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import schemathesis
from schemathesis.specs.openapi.checks import ignored_auth

from pipeline.config import IndexConfig
from pipeline.releases.store import Store
from serving.access.keys import SCOPES, add_key
from tests import client_process
from tests.api_schema import CHECKS, PAIRS, agrees
from tests.near_ties import brute_force, near_ties
from tests.served import Server
from tests.serving_release import CUSTOMERS
from tests.swapping import promotions_under_load
from tests.wire import play

pytestmark = [pytest.mark.ray, pytest.mark.long]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("judged"))
    server.start()
    yield server
    server.end()


def test_ten_thousand_hostile_requests_over_a_socket_are_answered_soundly(server):
    statuses, no_http = play(server, seed=5, count=10_000)
    print(f"{dict(sorted(statuses.items()))}, and what HAProxy takes for no HTTP: {no_http}")
    assert {200, 400, 401, 404, 405} <= set(statuses)
    assert statuses.total() > 8_000
    assert server.query(50)["results"][0]["match_count"] > 0


@pytest.fixture(scope="module")
def document(server):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.fixture(scope="module")
def key(server):
    return add_key(server.folder / "keys.json", "by the book", SCOPES)


@pytest.mark.parametrize(("path", "method"), PAIRS)
def test_an_operation_does_over_the_wire_what_the_document_says(document, key, path, method):
    # One wrong key again and again is soon told to slow down: 429, before anybody looks at it.
    checks = [check for check in CHECKS if check is not ignored_auth]
    agrees(document, path, method, 100, key=key, checks=checks)


@pytest.mark.parametrize("index", ["flat", "ivf"])
def test_our_clients_in_several_processes_find_what_brute_force_finds(server, tmp_path, index):
    world, queries = near_ties(tmp_path / index, index=IndexConfig(kind=index, match_recall=0.9))
    Store(str(server.folder / "store")).add(tmp_path / index)
    answer = server.client.post("/v1/admin/promote", json={"release": world.release.id})
    assert answer.status_code == 200, answer.text
    tasks = []
    for seed, (work, customer) in enumerate((
        (client_process.waiting, CUSTOMERS[0]), (client_process.awaiting, CUSTOMERS[0]),
        (client_process.awaiting, "nobody yet"), (client_process.changing, CUSTOMERS[1]),
    )):
        tasks.append((work, client_process.Task(
            server=server.url, key=add_key(server.folder / "keys.json", customer, SCOPES),
            release=world.release.id12, threshold=float(world.release.threshold), queries=queries,
            order=[brute_force(world, customer, query) for query in queries],
            proven=index == "flat", seed=seed, requests=240,
        )))
    with ProcessPoolExecutor(len(tasks), mp_context=get_context("spawn")) as pool:
        counts = [future.result() for future in [pool.submit(*task) for task in tasks]]
    print(f"{index}: {counts} queries and changes")
    assert min(counts) > 200


def test_a_thousand_promotions_under_load_fail_no_request_and_mix_no_answer(server):
    server.client.post("/v1/admin/promote", json={"release": server.world.release.id})
    answered = promotions_under_load(server, 1000)
    print(f"answered meanwhile: {dict(answered)}")
    assert min(answered.values()) > 1000
