"""The OpenAPI document, built from the table of operations and the models that validate them.

Its page (``serving/web/docs_page.py``) is one HTML text without scripts or fonts from elsewhere: it
opens on a machine that reaches nothing but this server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.schema import bodies as schema
from serving.web.examples import REQUEST
from serving.web.operations import OPERATIONS, Operation
from serving.web.refusals import REFUSALS

Document = dict[str, Any]

API_VERSION = "1"
"""Of the interface, not of the program: it is the ``v1`` of the paths."""


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
    answer = _content(operation.answer, operation.content_type, {"answer": operation.answered})
    document: Document = {
        "summary": operation.summary,
        "operationId": "".join(
            character if character.isalnum() else "_"
            for character in operation.method + operation.path
        ),
        "responses": {
            str(operation.status): {"description": "Answered.", "content": answer},
            **_refusals(operation),
        },
    }
    if operation.scope is not None:
        document["security"] = [{"key": []}]
        document["x-scope"] = operation.scope or "any"
    if operation.body is not None:
        document["requestBody"] = {
            "required": True,
            "content": _content(operation.body, "application/json", operation.bodies),
        }
    if operation.parameters:
        document["parameters"] = [
            {"name": name, "in": where, "required": where == "path", "schema": {"type": kind},
             "example": example}
            for name, where, kind, example in operation.parameters
        ]
    return document


def _refusals(operation: Operation) -> Document:
    """What may be answered instead: an example of every code, under its status."""
    codes = list(dict.fromkeys(operation.refusals))
    if operation.scope is not None:
        codes += ["unauthenticated", "key_expired"]
    if operation.scope:
        codes.append("forbidden")
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(REFUSALS[code].status, []).append(code)
    return {
        str(status): {
            "description": "; ".join(REFUSALS[code].when for code in by_status[status]) + ".",
            "content": _content(
                schema.ErrorAnswer, "application/json",
                {code: _error(code) for code in by_status[status]},
            ),
        }
        for status in sorted(by_status)
    }


def _error(code: str) -> Document:
    refusal = REFUSALS[code]
    return {
        "error": {"code": code, "message": refusal.message, "details": dict(refusal.details)},
        "request_id": REQUEST,
    }


def _content(
    model: type[BaseModel] | None, content_type: str, bodies: Mapping[str, object]
) -> Document:
    content: Document = {"examples": {name: {"value": body} for name, body in bodies.items()}}
    if model is not None:
        content["schema"] = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {content_type: content}
