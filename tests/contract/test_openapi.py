"""Every service against its own OpenAPI page: generated requests, right and wrong ones, over every operation."""

from collections.abc import Callable, Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.errors import UnsupportedSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.shared.cache.support import RedisProcess
from tests.support import KEY, Server, serving

KEYED = {"authorization": f"Bearer {KEY}"}
OUR_CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]
"""What our own pages promise, and vLLM's page does not keep for itself."""
BOTH_MODES = pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])


@pytest.fixture(scope="module")
def neighbours(
    sentiment: Server, embedding: Server, transformers: Server, session_redis: RedisProcess
) -> dict[str, str]:
    """Where the model services and Redis are, and the key of one of them."""
    urls = {"SENTIMENT_URL": sentiment.url, "EMBEDDING_URL": embedding.url, "LLM_URL": transformers.url}
    return {**urls, "API_KEY": KEY, "REDIS_PORT": str(session_redis.port)}


@pytest.fixture(scope="module")
def review(neighbours: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A review service with all model services behind it."""
    env = {**neighbours, "REVIEW_STORE": str(tmp_path_factory.mktemp("reviews"))}
    with serving("review_service", port_variable="REVIEW_PORT", env=env) as server:
        yield server


@pytest.fixture(scope="module")
def whole_gateway(neighbours: dict[str, str], review: Server) -> Iterator[Server]:
    """A gateway with a key and a cache, and all services behind it."""
    env = {**neighbours, "REVIEW_URL": review.url}
    with serving("gateway", port_variable="GATEWAY_PORT", env=env) as server:
        yield server


def run(server: Server, mode: GenerationMode, check: Callable[[Case], None], examples: int, only: set[str]) -> None:
    """Generate requests for each operation (of the paths in `only`, if there are any)."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=KEYED)
    operations = [operation for result in schema.get_all_operations() if (operation := result.ok())]
    chosen = [operation for operation in operations if not only or operation.path in only]
    assert len(chosen) >= max(4, len(only))
    for operation in chosen:
        # Without a body there is nothing that could be wrong: any text is a right path parameter.
        if mode is GenerationMode.POSITIVE or list(operation.body):
            generated = given(case=_cases(operation.as_strategy(generation_mode=mode)))(check)
            settings(max_examples=examples, suppress_health_check=list(HealthCheck))(generated)()
    assert httpx.get(f"{server.url}/health/ready").status_code == 200


@st.composite
def _cases(draw: st.DrawFn, generated: st.SearchStrategy[Case]) -> Case:
    """Without those that schemathesis finds no way to make: what a few schemas of vLLM's exclude, deep inside."""
    try:
        return draw(generated)
    except UnsupportedSchema:
        reject()


@BOTH_MODES
@pytest.mark.parametrize("service", ["sentiment", "embedding", "review", "whole_gateway", "transformers"])
def test_generated_requests_get_documented_answers(
    service: str, mode: GenerationMode, request: pytest.FixtureRequest
) -> None:
    """No generated request gets a 500, an undocumented status or a body of another shape."""

    def check(case: Case) -> None:
        answer = case.call(timeout=60, headers=KEYED)
        case.validate_response(answer, checks=[*OUR_CHECKS, not_a_server_error])

    generates = service in ("whole_gateway", "transformers") and mode is GenerationMode.POSITIVE
    examples = 5 if generates else 25
    run(request.getfixturevalue(service), mode, check, examples, set())


@BOTH_MODES
def test_generated_requests_never_fail_the_vllm_server(vllm: Server, mode: GenerationMode) -> None:
    """On the routes that the gateway offers, no generated request gets a 500, and every error has the one shape."""
    offered = {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/detokenize", "/generate"}

    def check(case: Case) -> None:
        if isinstance(case.body, dict):
            case.body = {"max_tokens": 5, **case.body}
        answer = case.call(timeout=60, headers=KEYED)
        case.validate_response(answer, checks=[not_a_server_error])
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    run(vllm, mode, check, 15, offered)
