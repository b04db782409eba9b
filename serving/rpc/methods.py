"""The methods of the gRPC services, over the same front as HTTP.

Whoever serves registers the two functions of ``SERVICER_FUNCTIONS`` and calls ``Rpc``. A message
stays bytes until its call is admitted: parsed, a small one can be a gigabyte. A refusal is a
status with the text of HTTP; its code, details and the seconds to wait are in the trailing
metadata. A call that its client gives up is cancelled, and what has not begun never will.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import grpc
import orjson

from serving.responses import REQUEST_ID, Response
from serving.rpc import limen_pb2
from serving.rpc.translation import (
    STATUSES,
    head_of,
    query_answer,
    query_body,
    verdict_answer,
    verdict_body,
)
from serving.web.front import Front

SERVICER_FUNCTIONS = (
    "serving.rpc.methods.add_limen_to_server",
    "serving.rpc.methods.add_health_to_server",
)
"""Import paths, as Ray Serve takes them."""

HEALTH = "grpc.health.v1.Health"
SERVICE = "limen.v1.Limen"

_QUICK = 2**16
"""Bytes that are translated at once; more would hold up the event loop."""

Answer = TypeVar("Answer")
Result = TypeVar("Result")


class Context(Protocol):
    """What is used of a call's context: grpc's own, or Ray Serve's."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """What the client sent beside its message."""

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status to answer with."""

    def set_details(self, details: str) -> None:
        """The text of the status."""

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        """What is sent beside the answer."""


class LimenServicer(Protocol):
    """Who answers the service of ``limen.proto``, asked with the bytes of a message."""

    Query: Callable[..., object]
    Verdict: Callable[..., object]


class HealthServicer(Protocol):
    """Who answers the health service."""

    Check: Callable[..., object]


class Rpc:
    """Answers the calls of one replica."""

    def __init__(self, front: Front) -> None:
        """Requests go through ``front``, like those over HTTP."""
        self._front = front

    async def query(self, message: bytes, context: Context) -> limen_pb2.QueryAnswer:
        """``limen.v1.Limen/Query``; ``message``: a ``QueryRequest``."""
        response = await self._handle("POST", "/v1/query", context, message, query_body)
        return await _answered(response, context, query_answer, limen_pb2.QueryAnswer())

    async def verdict(self, message: bytes, context: Context) -> limen_pb2.VerdictAnswer:
        """``limen.v1.Limen/Verdict``; ``message``: a ``VerdictRequest``."""
        response = await self._handle("POST", "/v1/verdicts", context, message, verdict_body)
        return await _answered(response, context, verdict_answer, limen_pb2.VerdictAnswer())

    async def check(
        self, message: limen_pb2.HealthRequest, context: Context
    ) -> limen_pb2.HealthAnswer:
        """``grpc.health.v1.Health/Check``: of the whole server, or of its one service."""
        if message.service not in ("", SERVICE, HEALTH):
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details(f"no service {message.service!r}; there is {SERVICE}")
            return limen_pb2.HealthAnswer()
        response = await self._handle("GET", "/readyz", context, b"", bytes)
        ready = response.status == 200
        return limen_pb2.HealthAnswer(status=(
            limen_pb2.HealthAnswer.SERVING if ready else limen_pb2.HealthAnswer.NOT_SERVING
        ))

    async def _handle(
        self, method: str, path: str, context: Context, message: bytes,
        body_of: Callable[[bytes], bytes],
    ) -> Response:
        metadata = {name: value for name, value in context.invocation_metadata()
                    if isinstance(value, str)}

        async def read() -> bytes:
            return await _translated(body_of, message)  # only after admission

        return await self._front.handle(head_of(method, path, metadata, len(message)), read)


async def _translated(translate: Callable[[bytes], Result], data: bytes) -> Result:
    return translate(data) if len(data) <= _QUICK else await asyncio.to_thread(translate, data)


async def _answered(
    response: Response, context: Context, read: Callable[[bytes], Answer], nothing: Answer
) -> Answer:
    trailing = [(REQUEST_ID.lower(), response.headers[REQUEST_ID])]
    if response.status >= 400:
        error = orjson.loads(response.body)["error"]
        context.set_code(STATUSES.get(response.status, grpc.StatusCode.INTERNAL))
        context.set_details(error["message"])
        trailing += [("limen-code", error["code"]), ("limen-details", _ascii(error["details"]))]
        if "Retry-After" in response.headers:
            trailing.append(("retry-after", response.headers["Retry-After"]))
    context.set_trailing_metadata(trailing)
    return nothing if response.status >= 400 else await _translated(read, response.body)


def _ascii(details: object) -> str:
    """JSON in ASCII: metadata can carry nothing else."""
    return json.dumps(details)


def add_limen_to_server(servicer: LimenServicer, server: grpc.Server) -> None:
    """Register ``servicer.Query`` and ``servicer.Verdict``, which take messages as bytes."""
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {
        "Query": grpc.unary_unary_rpc_method_handler(
            servicer.Query, response_serializer=limen_pb2.QueryAnswer.SerializeToString
        ),
        "Verdict": grpc.unary_unary_rpc_method_handler(
            servicer.Verdict, response_serializer=limen_pb2.VerdictAnswer.SerializeToString
        ),
    }),))


def add_health_to_server(servicer: HealthServicer, server: grpc.Server) -> None:
    """Register ``servicer.Check`` under the standard name of the health service."""
    check = grpc.unary_unary_rpc_method_handler(
        servicer.Check,
        request_deserializer=limen_pb2.HealthRequest.FromString,
        response_serializer=limen_pb2.HealthAnswer.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(HEALTH, {"Check": check}),)
    )
