"""Calls over gRPC: one connection, eight calls at a time, each with a raw little-endian vector.

The client is grpcio's own, which takes several times the processor time of ``load.py``'s sockets:
on a small machine it is part of what is measured. A call that fails raises.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence

import grpc

from pipeline.distance import Vectors
from serving.rpc.limen_pb2 import QueryInput, QueryRequest


def messages(queries: Vectors) -> list[bytes]:
    """A ``QueryRequest`` for each of ``queries`` (n, d), serialised."""
    return [
        QueryRequest(queries=[QueryInput(embedding=row.astype("<f4").tobytes())])
        .SerializeToString()
        for row in queries
    ]  # fmt: skip


def calls_per_second(
    port: int, asked: Sequence[bytes], key: str, at_once: int, seconds: float
) -> float:
    """Calls answered a second; ``grpc.RpcError`` where one is not."""

    async def run() -> float:
        turn, answered = itertools.cycle(asked), 0
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            query = channel.unary_unary("/limen.v1.Limen/Query")
            begin = time.perf_counter()

            async def one() -> None:
                nonlocal answered
                while time.perf_counter() - begin < seconds:
                    await query(next(turn), metadata=(("authorization", f"Bearer {key}"),))
                    answered += 1

            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(one())
            return answered / (time.perf_counter() - begin)

    return asyncio.run(run())
