"""The OpenAPI document, built from the models that validate the requests, and its page.

The page is one HTML text without scripts or fonts from elsewhere: it opens on a machine that
reaches nothing but this server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving import schema

Document = dict[str, Any]

API_VERSION = "1"
"""Of the interface, not of the program: it is the ``v1`` of the paths."""

_REFUSALS = {
    400: "not JSON, a field unknown or given twice, or a value of another type",
    401: "no key, or one that is not known",
    403: "the key lacks the scope",
    404: "no such path, pair or customer, as far as this key sees",
    409: "an old cursor (`release_changed`), or a verdict against an earlier one",
    413: "the body is too large",
    422: "undecodable, NaN, zero or wrong dimension; `details.index` is the query",
    429: "this customer has too many requests waiting; see Retry-After",
    503: "busy, or the records cannot be reached; see Retry-After",
    504: "no answer in time",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One method of one path, as the document shows it."""

    method: str
    path: str
    summary: str
    scope: str | None = ""
    """Scope its key needs; empty: any key; None: open to all."""
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    content_type: str = "application/json"
    status: int = 200
    refusals: Sequence[int] = ()
    parameters: Sequence[tuple[str, str, str]] = ()
    """(name, where, type) of each: ``("budget", "query", "integer")``."""


OPERATIONS = (
    Operation(
        method="post", path="/v1/query", scope="query",
        summary="The items within the threshold of each query.",
        body=schema.QueryRequest, answer=schema.QueryAnswer,
        refusals=(400, 403, 409, 413, 422, 429, 503, 504),
    ),
    Operation(
        method="get", path="/v1/reviews", scope="verdict",
        summary="Pairs drawn for review, whole query by whole query.",
        answer=schema.ReviewsAnswer, refusals=(400, 403, 503),
        parameters=(("budget", "query", "integer"),),
    ),
    Operation(
        method="post", path="/v1/verdicts", scope="verdict", status=202,
        summary="Verdicts on pairs; answered once they are durable, all or none.",
        body=schema.VerdictsRequest, answer=schema.VerdictsAnswer,
        refusals=(400, 403, 404, 409, 413, 503),
    ),
    Operation(method="get", path="/v1/release", summary="What is served: release and threshold."),
    Operation(
        method="get", path="/v1/release/report", scope="observe",
        summary="The calibration report of the release.", content_type="text/html",
        refusals=(403,),
    ),
    Operation(
        method="get", path="/v1/consistency", scope="observe", refusals=(403, 503),
        summary="Drift of every customer, as in the gauges.",
    ),
    Operation(
        method="get", path="/v1/customers/{customer}/consistency", refusals=(404, 503),
        summary="Drift of the key's own customer.",
        parameters=(("customer", "path", "string"),),
    ),
    Operation(
        method="get", path="/metrics", scope="observe", content_type="text/plain",
        summary="The gauges, for Prometheus.", refusals=(403, 503),
    ),
    Operation(method="get", path="/livez", scope=None, summary="200 while the process runs."),
    Operation(
        method="get", path="/readyz", scope=None, refusals=(503,),
        summary="200 once the release is loaded and finds one of its own items.",
    ),
    Operation(
        method="get", path="/openapi.json", scope=None, summary="This document."
    ),
    Operation(
        method="get", path="/docs", scope=None, content_type="text/html",
        summary="This document as a page.",
    ),
)


def openapi_document() -> Document:
    """The whole interface as OpenAPI 3.1."""
    models = sorted(
        {m for op in OPERATIONS for m in (op.body, op.answer) if m} | {schema.ErrorAnswer},
        key=lambda model: model.__name__,
    )
    _, definitions = models_json_schema(
        [(model, "validation") for model in models],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, Document] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Limen",
            "version": API_VERSION,
            "description": "Similarity search for many customers under one calibrated threshold.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation) -> Document:
    refusals = [*(() if operation.scope is None else (401,)), *operation.refusals]
    content = _content(operation.answer, operation.content_type)
    document: Document = {
        "summary": operation.summary,
        "operationId": f"{operation.method}{operation.path.replace('/', '_').replace('.', '_')}",
        "responses": {
            str(operation.status): {"description": "Answered.", "content": content},
            **{str(status): {
                "description": _REFUSALS[status],
                "content": _content(schema.ErrorAnswer, "application/json"),
            } for status in sorted(refusals)},
        },
    }
    if operation.scope is not None:
        document["security"] = [{"key": []}]
        document["x-scope"] = operation.scope or "any"
    if operation.body is not None:
        document["requestBody"] = {
            "required": True, "content": _content(operation.body, "application/json"),
        }
    if operation.parameters:
        document["parameters"] = [
            {"name": name, "in": where, "required": where == "path", "schema": {"type": kind}}
            for name, where, kind in operation.parameters
        ]
    return document


def _content(model: type[BaseModel] | None, content_type: str) -> Document:
    if model is None:
        return {content_type: {}}
    return {content_type: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
