"""Every service against its own OpenAPI page: generated requests, right and wrong ones, over every operation."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support import Server

AWAY = 503
"""The one server error that is no fault: a gateway says it, documented, when a service behind it is away."""


def check(case: Case) -> None:
    """The answer is documented, has the documented shape, and is no fault of the server."""
    answer = case.call(timeout=30)
    checks = [content_type_conformance, response_schema_conformance, status_code_conformance]
    if answer.status_code != AWAY:
        checks.append(not_a_server_error)
    case.validate_response(answer, checks=checks)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
@pytest.mark.parametrize("service", ["sentiment", "embedding", "gateway"])
def test_generated_requests_get_documented_answers(
    service: str, mode: GenerationMode, request: pytest.FixtureRequest
) -> None:
    """No generated request gets a 500, an undocumented status or a body of another shape."""
    server: Server = request.getfixturevalue(service)
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 4
    for operation in operations:
        # Without a body there is nothing that could be wrong: any text is a right path parameter.
        if mode is GenerationMode.POSITIVE or list(operation.body):
            run = given(case=operation.as_strategy(generation_mode=mode))(check)
            settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))(run)()
    assert httpx.get(f"{server.url}/health/ready").status_code == 200
