"""The interface against its own OpenAPI document: schemathesis makes up the requests."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
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
from tests.asgi_world import application
from tests.test_api import Server

load_all_checks()
CHECKS = (
    not_a_server_error, status_code_conformance, content_type_conformance, ignored_auth,
    response_schema_conformance, negative_data_rejection, unsupported_method,
)
PAIRS = [(operation.path, operation.method) for operation in OPERATIONS]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    return Server(tmp_path_factory.mktemp("schema"))


@pytest.fixture(scope="module")
def document(server):
    return schemathesis.openapi.from_asgi("/openapi.json", application(server.front))


def agrees(server, document, path, method, examples, **more):
    """Requests that obey the document and requests that do not, to one operation."""
    operation = document[path][method]
    modes = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]
    key = {"Authorization": f"Bearer {server.keys['all']}"}

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck), **more)
    @given(st.one_of(modes))
    def asked(case):
        case.call_and_validate(headers=key, checks=CHECKS)

    asked()


@pytest.mark.parametrize(("path", "method"), PAIRS)
def test_an_operation_does_what_the_document_says(server, document, path, method):
    agrees(server, document, path, method, 5, phases=[Phase.explicit, Phase.generate])


@pytest.mark.long
@pytest.mark.parametrize(("path", "method"), PAIRS)
def test_an_operation_does_what_the_document_says_at_length(server, document, path, method):
    agrees(server, document, path, method, 400)
