"""How much a customer who floods the server costs another: p99 with the flood over p99 without.

One machine: ``python -m benchmarks.flood --seconds 5 --rounds 3``

A real ``limen serve`` on loopback with a small release. One customer asks steadily, one query
every 20 ms; the other has a limit of 20 queries a second and sends 50 times as many. Quiet and
flooded spans take turns, so that what else the machine does touches both. Clients and server
share its cores: on a small machine the flood also costs what it takes to send it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from serving.access.key_file import Limit
from serving.access.keys import add_key, set_limit
from serving.machine.launch import free_block
from tests.serving_release import CUSTOMERS, World, make_world

LIMIT, TIMES = 20, 50
STEADY = 50
"""Queries a second of the customer whose latency counts."""
CONNECTIONS = 8
"""Of the flood."""
READY_SECONDS = 300


def main() -> None:
    """Serve, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each span")
    parser.add_argument("--rounds", type=int, default=3, help="of a quiet and a flooded span")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = make_world(folder / "candidate")
        steady, flooding = (add_key(folder / "keys.json", who, ["query"]) for who in CUSTOMERS)
        set_limit(folder / "keys.json", CUSTOMERS[1], Limit(per_second=LIMIT, burst=LIMIT))
        port = free_block(1)
        server = _serve(folder, port)
        try:
            _measure(port, _request(world, steady), _request(world, flooding), arguments)
        finally:
            server.terminate()
            server.wait(60)


def _measure(port: int, steady: bytes, flooding: bytes, arguments: argparse.Namespace) -> None:
    asyncio.run(_ask(port, steady, 2.0))  # whatever is slow the first time
    quiet: list[float] = []
    flooded: list[float] = []
    refused: Counter[int] = Counter()
    for _ in range(arguments.rounds):
        quiet += asyncio.run(_ask(port, steady, arguments.seconds))
        with multiprocessing.Pool(1) as pool:
            flood = pool.apply_async(_flood, (port, flooding, arguments.seconds + 1.0))
            time.sleep(0.5)
            flooded += asyncio.run(_ask(port, steady, arguments.seconds))
            refused.update(flood.get())
    for name, seconds in (("quiet", quiet), ("flooded", flooded)):
        p50, p99 = np.percentile(seconds, (50, 99)) * 1000
        print(f"{name:8} {len(seconds)} requests, p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    sent = sum(refused.values()) / arguments.rounds / (arguments.seconds + 1.0)
    print(f"flood    {sent:.0f} requests a second of {LIMIT * TIMES} meant "
          f"(limit {LIMIT}), by status {dict(sorted(refused.items()))}")
    ratio = np.percentile(flooded, 99) / np.percentile(quiet, 99)
    print(f"p99 with the flood / without: {ratio:.2f}  ({os.cpu_count()} cores, load "
          f"{os.getloadavg()[0]:.1f})")


def _serve(folder: Path, port: int) -> subprocess.Popen[str]:
    log = (folder / "serve.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "serve", str(folder / "candidate"), "--port", str(port),
         "--keys", str(folder / "keys.json"), "--records", f"sqlite:///{folder / 'records.db'}"],
        stdout=log, stderr=subprocess.STDOUT, text=True,
    )
    deadline = time.monotonic() + READY_SECONDS
    while "Stop with Ctrl-C" not in (folder / "serve.log").read_text():
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            raise RuntimeError(f"no server: {(folder / 'serve.log').read_text()}")
        time.sleep(0.2)
    return server


def _request(world: World, key: str) -> bytes:
    body = json.dumps({"queries": [{"embedding": world.vectors[50].tolist()}]}).encode()
    return (f"POST /v1/query HTTP/1.1\r\nHost: limen\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body


async def _ask(port: int, request: bytes, seconds: float) -> list[float]:
    """Seconds that each of the steady requests took, from when it was due."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took = []
    begin = time.monotonic()
    for number in range(int(seconds * STEADY)):
        due = begin + number / STEADY
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        status = await _round(reader, writer, request)
        if status != 200:
            raise RuntimeError(f"the steady customer was refused: {status}")
        took.append(time.monotonic() - due)
    writer.close()
    return took


def _flood(port: int, request: bytes, seconds: float) -> Counter[int]:
    """How many answers of each status; in a process of its own."""
    statuses: Counter[int] = Counter()

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        begin = time.monotonic()
        for number in range(int(seconds * LIMIT * TIMES / CONNECTIONS)):
            due = begin + number * CONNECTIONS / (LIMIT * TIMES)
            if time.monotonic() > begin + seconds:
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            statuses[await _round(reader, writer, request)] += 1
        writer.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(CONNECTIONS)))

    asyncio.run(all_of_them())
    return statuses


async def _round(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> int:
    """The status of one answer, read whole."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])


if __name__ == "__main__":
    main()
