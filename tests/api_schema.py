"""Requests that schemathesis makes up from the OpenAPI document, and what it checks of answers."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from serving.web.operations import OPERATIONS

load_all_checks()
CHECKS = (
    not_a_server_error, status_code_conformance, content_type_conformance, ignored_auth,
    response_schema_conformance, negative_data_rejection, unsupported_method,
)
PAIRS = [(operation.path, operation.method) for operation in OPERATIONS]


def agrees(document, path, method, examples, *, key, checks=CHECKS, **more):
    """Requests that obey the document and requests that do not, to one operation."""
    operation = document[path][method]
    modes = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck), **more)
    @given(st.one_of(modes))
    def asked(case):
        case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, checks=checks)

    asked()
