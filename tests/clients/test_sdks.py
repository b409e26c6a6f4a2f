"""SDKs and frameworks, each as its users call it: chat, streams, tools, embeddings, and what an error looks like."""

import math
from typing import Any

import httpx
import pytest

from tests.clients.conftest import EMBEDDING, ClientTarget
from tests.clients.running import NODE, PYTHON, outcomes
from tests.support import KEY

CLIENTS = [f"python/{name}" for name in PYTHON] + [f"node/{name}" for name in NODE]
INSTRUCTOR = "python/instructor"
"""Knows structured answers only, and no embeddings."""
every_client = pytest.mark.parametrize("client", CLIENTS, indirect=True)
chatting_client = pytest.mark.parametrize("client", [name for name in CLIENTS if name != INSTRUCTOR], indirect=True)
TEXTS = ["국물이 진해요", "직원이 친절해요"]


class SdkClient:
    """One client's outcomes, by case."""

    def __init__(self, name: str, found: dict[str, dict[str, Any]]) -> None:
        self.name = name
        self.found = found

    def value(self, case: str) -> Any:
        """What the case gave."""
        outcome = self.found.get(case, {})
        assert "value" in outcome, f"{self.name}: {outcome}"
        return outcome["value"]


@pytest.fixture(scope="module")
def client(request: pytest.FixtureRequest, stack: ClientTarget) -> SdkClient:
    """A client that has been through all of its cases, one after the other."""
    return SdkClient(request.param, outcomes(request.param, stack.environment))


@chatting_client
def test_a_chat_is_answered(client: SdkClient) -> None:
    """The answer is text."""
    answer = client.value("chat")
    assert isinstance(answer, str)
    assert answer


@every_client
def test_a_stream_comes_in_pieces(client: SdkClient) -> None:
    """Several pieces, which together are text."""
    pieces = client.value("stream")
    assert len(pieces) > 1 or client.name == INSTRUCTOR
    assert "".join(pieces)


@every_client
def test_a_tool_that_is_forced_is_called(client: SdkClient) -> None:
    """By its name, with arguments of its schema."""
    call = client.value("tools")
    assert call["name"] == "get_weather"
    assert call["arguments"]["city"] in ("서울", "부산")


@chatting_client
def test_embeddings_are_those_that_the_route_gives(client: SdkClient, stack: ClientTarget) -> None:
    """Unit vectors, the same as a plain request's, whichever encoding the client asks for."""
    vectors = client.value("embeddings")
    plain = httpx.post(
        f"{stack.url}/v1/embeddings",
        json={"model": EMBEDDING, "input": TEXTS},
        headers={"authorization": f"Bearer {KEY}"},
        timeout=60,
    ).json()["data"]
    assert len(vectors) == len(plain)
    for vector, expected in zip(vectors, (one["embedding"] for one in plain), strict=True):
        assert math.isclose(math.hypot(*vector), 1, abs_tol=1e-3)
        assert sum(a * b for a, b in zip(vector, expected, strict=True)) > 0.999


@every_client
def test_an_unknown_model_is_named_as_one(client: SdkClient) -> None:
    """The client shows the status as a 404, and the gateway's own sentence."""
    error = client.value("error")
    assert error["status"] == 404, error
    assert "no-such-model" in error["text"], error


@pytest.mark.parametrize("client", [INSTRUCTOR], indirect=True)
def test_instructor_gets_an_answer_of_a_schema(client: SdkClient) -> None:
    """A JSON schema, after a tool."""
    verdict = client.value("schema")
    assert verdict["label"] in ("positive", "negative")
    assert 1 <= verdict["stars"] <= 5
