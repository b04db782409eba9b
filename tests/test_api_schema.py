"""The interface against its own OpenAPI document: schemathesis makes up the requests."""

import pytest
import schemathesis
from hypothesis import Phase

from tests.api_schema import PAIRS, agrees
from tests.asgi_world import application
from tests.test_api import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    return Server(tmp_path_factory.mktemp("schema"))


@pytest.fixture(scope="module")
def document(server):
    return schemathesis.openapi.from_asgi("/openapi.json", application(server.front))


@pytest.mark.parametrize(("path", "method"), PAIRS)
def test_an_operation_does_what_the_document_says(server, document, path, method):
    agrees(document, path, method, 5, key=server.keys["all"],
           phases=[Phase.explicit, Phase.generate])


@pytest.mark.long
@pytest.mark.parametrize(("path", "method"), PAIRS)
def test_an_operation_does_what_the_document_says_at_length(server, document, path, method):
    agrees(document, path, method, 400, key=server.keys["all"])
