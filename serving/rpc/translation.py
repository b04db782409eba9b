"""Between gRPC's messages and the JSON of the HTTP interface, so that both are one interface.

A message becomes the body that would have been posted, an answer's body the message: validation,
limits, recording and texts cannot differ. Vectors travel as raw little-endian float32.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import grpc
import numpy as np
import orjson
from google.protobuf.message import DecodeError, Message

from serving.access.admission import Head, request_id
from serving.machine.haproxy import GRPC_TIMEOUT
from serving.responses import RefusedError
from serving.rpc import limen_pb2
from serving.schema.bodies import MAX_QUERIES, MAX_VERDICTS

Parsed = TypeVar("Parsed", bound=Message)

STATUSES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED, 404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED, 409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT, 422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED, 503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""Of HTTP to gRPC; any other is ``INTERNAL``."""


_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_MILLISECONDS = {"H": 3_600_000.0, "M": 60_000.0, "S": 1000.0, "m": 1.0, "u": 1e-3, "n": 1e-6}
_LONGEST = 999_999_999  # milliseconds: more is as good as none


def head_of(method: str, path: str, metadata: Mapping[str, str], length: int) -> Head:
    """The head of the request that a call with this ``metadata`` stands for."""
    return Head(
        method=method, path=path, authorization=metadata.get("authorization", ""),
        timeout_ms=_timeout_ms(metadata), content_length=length,
        request_id=request_id(metadata.get("x-request-id")),
    )


def _timeout_ms(metadata: Mapping[str, str]) -> str:
    """What the client says it waits, or the deadline of its call where that comes sooner.

    The deadline is written as gRPC's protocol has it: up to 8 digits and a unit.
    """
    said = metadata.get("x-limen-timeout-ms", "")
    native = _TIMEOUT.fullmatch(metadata.get(GRPC_TIMEOUT, ""))
    if native is None:
        return said
    left = max(1, min(int(int(native[1]) * _MILLISECONDS[native[2]]), _LONGEST))
    if not said:
        return str(left)
    # Anything else is refused for what it is.
    return str(min(left, int(said))) if re.fullmatch("[0-9]{1,18}", said) else said


def query_body(data: bytes) -> bytes:
    """The body of ``POST /v1/query`` that the bytes of a ``QueryRequest`` stand for.

    ``RefusedError`` for other bytes, and for numbers that JSON has not.
    """
    message = _parsed(limen_pb2.QueryRequest(), data)
    queries = message.queries[: MAX_QUERIES + 1]  # one too many is refused like a million
    body: dict[str, Any] = {
        "queries": [_query(query, index) for index, query in enumerate(queries)],
        "with": ["metadata"] if message.with_metadata else [], "exact": message.exact,
        **{name: getattr(message, name) for name in ("limit", "cursor", "threshold")
           if message.HasField(name)},
    }
    if message.HasField("threshold") and not math.isfinite(message.threshold):
        raise RefusedError(400, "invalid_request", "threshold: expected a finite number",
                           details={"field": "threshold"})
    return orjson.dumps(body)


def _parsed(message: Parsed, data: bytes) -> Parsed:
    try:
        message.MergeFromString(data)
    except DecodeError:
        raise RefusedError(400, "invalid_request",
                           f"not the bytes of a {message.DESCRIPTOR.full_name}") from None
    return message


def _query(query: limen_pb2.QueryInput, index: int) -> dict[str, Any]:
    content = query.WhichOneof("content")
    fields: dict[str, Any] = {"id": query.id} if query.HasField("id") else {}
    if content == "text":
        fields["text"] = query.text
    elif content == "vector":
        fields["vector"] = _coordinates(query.vector, index)
    elif content == "image":
        fields["image"] = base64.b64encode(query.image).decode()
    elif content == "embedding":
        fields["embedding_b64"] = base64.b64encode(query.embedding).decode()
    return fields


def _coordinates(data: bytes, index: int) -> list[float]:
    if len(data) % 4:
        wrong = f"{len(data)} bytes; expected little-endian float32, 4 bytes each"
    elif not np.isfinite(row := np.frombuffer(data, "<f4")).all():
        wrong = "not finite; expected finite float32 numbers"
    else:
        coordinates: list[float] = row.tolist()
        return coordinates
    raise RefusedError(422, "invalid_query", f"queries.{index}.vector: {wrong}",
                       details={"index": index, "field": "vector"})


def query_answer(body: bytes) -> limen_pb2.QueryAnswer:
    """The message that a body answering ``POST /v1/query`` stands for."""
    answer = orjson.loads(body)
    return limen_pb2.QueryAnswer(
        release=answer["release"], threshold=answer["threshold"]["value"],
        threshold_source=answer["threshold"]["source"], request_id=answer["request_id"],
        results=[_result(result) for result in answer["results"]],
    )


def _result(result: Mapping[str, Any]) -> limen_pb2.Result:
    rejected = result["nearest_rejected"]
    return limen_pb2.Result(
        id=result["id"], query_id=result["query_id"],
        matches=[_match(match) for match in result["matches"]],
        match_count=result["match_count"], complete=result["complete"],
        match_recall=result["match_recall"], next_cursor=result["next_cursor"],
        nearest_rejected=None if rejected is None else _match(rejected),
        recorded=result["recorded"],
    )


def _match(match: Mapping[str, Any]) -> limen_pb2.Match:
    metadata = orjson.dumps(match["metadata"]).decode() if "metadata" in match else ""
    return limen_pb2.Match(item_id=match["item_id"], distance=match["distance"],
                           metadata_json=metadata)


def verdict_body(data: bytes) -> bytes:
    """The body of ``POST /v1/verdicts`` that the bytes of a ``VerdictRequest`` stand for."""
    message = _parsed(limen_pb2.VerdictRequest(), data)
    return orjson.dumps({"verdicts": [
        {"query_id": verdict.query_id, "item_id": verdict.item_id, "is_match": verdict.is_match,
         **({"draw_id": verdict.draw_id} if verdict.HasField("draw_id") else {})}
        for verdict in message.verdicts[: MAX_VERDICTS + 1]
    ]})


def verdict_answer(body: bytes) -> limen_pb2.VerdictAnswer:
    """The message that a body answering ``POST /v1/verdicts`` stands for."""
    return limen_pb2.VerdictAnswer(**orjson.loads(body))
