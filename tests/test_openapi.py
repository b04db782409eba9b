"""The OpenAPI document against the standard's own schema, and every example in it."""

import ast
import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from serving.machine import haproxy
from serving.responses import RefusedError
from serving.web.docs_page import docs_page
from serving.web.openapi import openapi_document
from serving.web.operations import OPERATIONS
from serving.web.refusals import REFUSALS

SCHEMA = Path(__file__).parent / "schemas" / "openapi-3.1.json"
SERVING = Path(__file__).parent.parent / "serving"


@pytest.fixture(scope="module")
def document():
    return json.loads(json.dumps(openapi_document()))


def test_the_document_obeys_the_schema_of_openapi_3_1(document):
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(document)
    for model in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(model)


def test_that_schema_refuses_a_document_with_a_fault(document):
    broken = json.loads(json.dumps(document))
    del broken["paths"]["/v1/query"]["post"]["responses"]["200"]["description"]
    assert not Draft202012Validator(json.loads(SCHEMA.read_text())).is_valid(broken)


def contents(document):
    """(where, content of a media type) of every body in the document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            bodies = {"body": operation["requestBody"]} if "requestBody" in operation else {}
            for name, body in (bodies | operation["responses"]).items():
                for content in body["content"].values():
                    yield f"{method} {path} {name}", content


def test_every_body_has_an_example_and_every_example_obeys_its_schema(document):
    resource = Resource.from_contents(document, default_specification=DRAFT202012)
    registry = Registry().with_resource("limen:openapi", resource)
    for where, content in contents(document):
        assert content["examples"], where
        if "schema" not in content:
            continue
        reference = {"$ref": "limen:openapi" + content["schema"]["$ref"]}
        for example in content["examples"].values():
            Draft202012Validator(reference, registry=registry).validate(example["value"])


def test_every_example_obeys_the_model_that_validates_such_a_body():
    for operation in OPERATIONS:
        assert bool(operation.body) == bool(operation.bodies), operation.path
        for body in operation.bodies.values():
            operation.body.model_validate_json(json.dumps(body))
        assert operation.answered is not None, operation.path
        if operation.answer is not None:
            operation.answer.model_validate_json(json.dumps(operation.answered))


def test_the_ids_of_operations_differ(document):
    ids = [op["operationId"] for methods in document["paths"].values() for op in methods.values()]
    assert len(set(ids)) == len(ids)


def codes_in_the_source():
    """(status, code) of every refusal that ``serving`` can raise, read from its syntax tree."""
    for path in SERVING.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.Call) and getattr(node.func, "id", "")
            if named == RefusedError.__name__:
                yield tuple(ast.literal_eval(argument) for argument in node.args[:2])
    for answer in (haproxy.refusal(), haproxy.flooding(), haproxy.malformed()):
        head, _, body = answer.partition(b"\r\n\r\n")
        yield int(head.split()[1]), json.loads(body)["error"]["code"]


def test_every_refusal_is_declared_with_its_status_and_no_other():
    raised = {(status, code) for status, code in codes_in_the_source()}
    assert raised == {(refusal.status, code) for code, refusal in REFUSALS.items()}


def test_every_refusal_is_documented_somewhere():
    documented = {code for operation in OPERATIONS for code in operation.refusals}
    # Of every path with a key, and with a scope.
    documented |= {"unauthenticated", "key_expired", "forbidden"}
    assert documented == set(REFUSALS) - {"method_not_allowed"}  # of paths that are not there


def test_the_page_shows_how_to_ask_every_operation(document):
    page = docs_page(document)
    assert "&quot;$LIMEN/v1/reviews?budget=20&quot;" in page
    assert "$LIMEN/v1/customers/acme/consistency" in page
    assert "a small red lamp" not in page  # one example is enough on the page
    assert "&lt;base64 of an image file&gt;" in page
