"""How many requests a second, end to end over HTTP, as ratios measured in one run.

    python -m benchmarks.http --items 1000000                    # 7 minutes on 2 cores
    python -m benchmarks.http --items 20000 --rounds 2           # 1 minute

Data: families of classes of 20 items, one customer's, 16 matches a query, index kind ``ivf``;
1,000 queries in turn. ``limen serve`` as a user starts it, with HAProxy, keys, a quota, records and
metrics, against uvicorn and Starlette around the same retriever (``bare.py``). The servers take
turns, and every ratio is the median over the rounds of two spans side by side. Server and client
share the machine. Before anything is timed both servers have to give the same matches; a run in
which any request fails gives no figures.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import orjson

from benchmarks.http.calls import calls_per_second, messages
from benchmarks.http.load import Load, LoadError, answer_of, drive
from benchmarks.http.release import release_of
from benchmarks.http.servers import bare, key_of, limen, requests

CONNECTIONS = (1, 8, 32)
AT_ONCE = 8
"""Connections of the comparisons among ways to ask the same server."""
TOGETHER = 32
WARM_SECONDS = 15.0
"""Before anything is timed: until the server knows how much of its traffic it can record."""

Rounds = Mapping[str, Sequence[float]]


def main() -> None:
    """Build or open the release, serve it both ways, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one span")
    parser.add_argument("--folder", type=Path, help="where the release is kept for the next run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        release, queries = release_of(args.folder or scratch, args.items, args.dimension)
        key = key_of(scratch)
        print(f"{args.items:,} x {args.dimension}, release {release.id12}, {os.cpu_count()} cores")
        single, as_bytes = requests(queries, key), requests(queries, key, as_bytes=True)
        together, calls = requests(queries, key, together=TOGETHER), messages(queries)
        with (
            limen(release.folder, scratch, 1) as (http, grpc),
            bare(release.folder, scratch) as least,
        ):
            require_equal(least, http, single)
            drive(http, single, AT_ONCE, WARM_SECONDS)
            against_bare(least, http, single, args)
            ways = in_turn({
                "json": lambda: ask(http, single, AT_ONCE, args).per_second,
                "base64": lambda: ask(http, as_bytes, AT_ONCE, args).per_second,
                "together": lambda: TOGETHER * ask(http, together, AT_ONCE, args).per_second,
                "bare together": lambda: TOGETHER * ask(least, together, AT_ONCE, args).per_second,
                "grpc": lambda: calls_per_second(grpc, calls, key, AT_ONCE, args.seconds),
            }, args.rounds)  # fmt: skip
        show("base64 / JSON numbers, requests/s at 8", ways, "base64", "json", "at least 1")
        show("32 queries a request / 1, queries/s at 8", ways, "together", "json", "at least 4")
        show("32 queries a request: limen / bare", ways, "together", "bare together", "")
        show("gRPC / JSON numbers, requests/s at 8", ways, "grpc", "json", "at least 1")
        with (
            limen(release.folder, scratch, 1) as (one, _),
            limen(release.folder, scratch, 2) as (two, _),
        ):
            for port in (one, two):
                drive(port, single, AT_ONCE, WARM_SECONDS)
            replicas = in_turn({
                "one": lambda: ask(one, single, AT_ONCE, args).per_second,
                "two": lambda: ask(two, single, AT_ONCE, args).per_second,
            }, args.rounds)
        show("two replicas / one, requests/s at 8", replicas, "two", "one",
             "1.6 where cores allow")


def against_bare(
    least: int, http: int, single: Sequence[bytes], args: argparse.Namespace
) -> None:
    """Requests a second of both servers at every number of connections, and the tail."""
    for connections in CONNECTIONS:
        tails: list[float] = []

        def served(at: int = connections, tails: list[float] = tails) -> float:
            load = ask(http, single, at, args)
            tails.append(load.percentile(99) / load.percentile(50))
            return load.per_second

        def bared(at: int = connections) -> float:
            return ask(least, single, at, args).per_second

        rates = in_turn({"limen": served, "bare": bared}, args.rounds)
        show(f"limen / bare, requests/s at {connections}", rates, "limen", "bare", "at least 0.8")
        print(f"{'':44} p99 / p50 {median(tails[-args.rounds:]):.2f}"
              f"{'  (at most 3)' if connections == 8 else ''}", flush=True)


def ask(
    port: int, asked: Sequence[bytes], connections: int, args: argparse.Namespace
) -> Load:
    """One span; ``LoadError`` where any request failed."""
    load = drive(port, asked, connections, args.seconds)
    if load.failures:
        raise LoadError(f"answers by status, beside 200: {dict(load.failures)}")
    return load


def in_turn(measures: Mapping[str, Callable[[], float]], rounds: int) -> Rounds:
    """What each of the ``measures`` gives, side by side; the first round warms and is left out."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        # The other way round every other time: whoever comes later must not gain by it.
        for name in list(measures)[:: 1 if number % 2 else -1]:
            found[name].append(measures[name]())
    return {name: rates[1:] for name, rates in found.items()}


def show(title: str, rounds: Rounds, name: str, other: str, goal: str) -> None:
    """One line: the median of the rounds' ratios, their range, and the medians themselves."""
    ratios = sorted(a / b for a, b in zip(rounds[name], rounds[other], strict=True))
    print(f"{title:44} {median(ratios):.2f} x [{ratios[0]:.2f}, {ratios[-1]:.2f}]  "
          f"{median(rounds[name]):.0f} / {median(rounds[other]):.0f}"
          f"{f'  ({goal})' if goal else ''}", flush=True)


def require_equal(least: int, http: int, single: Sequence[bytes]) -> None:
    """``LoadError`` where the servers differ in what they find."""
    for request in single[::10]:
        found = []
        for port in (least, http):
            status, body = answer_of(port, request)
            if status != 200:
                raise LoadError(f"{status}: {body[:200]!r}")
            result, = orjson.loads(body)["results"]
            found.append([result[name] for name in ("matches", "match_count", "match_recall",
                                                    "nearest_rejected")])
        if found[0] != found[1]:
            raise LoadError(f"the servers found different things: {found[0]}, {found[1]}")


if __name__ == "__main__":
    main()
