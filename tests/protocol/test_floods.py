"""Bytes without end, at every service's port but vLLM's, which has its own test."""

from collections.abc import Iterator

import psutil
import pytest

from tests.gateway.support import canned_gateway
from tests.protocol.attacks import FLOODS, assert_floods_end, assert_slow_senders_end, flood
from tests.support import KEY, Server, free_port, serving

GROWTH_BYTES = 60_000_000
"""Most memory that all of them may leave behind."""


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A review service whose models are away; its door is open."""
    nobody = f"http://127.0.0.1:{free_port()}"
    env = {
        "REVIEW_STORE": str(tmp_path_factory.mktemp("store")),
        "CACHE_ENABLED": "false",
        "PRECOMPUTE_ENABLED": "false",
    }
    urls = dict.fromkeys(("LLM_URL", "SENTIMENT_URL", "EMBEDDING_URL"), nobody)
    with serving("review_service", port_variable="REVIEW_PORT", env={**env, **urls}) as server:
        yield server


@pytest.fixture(scope="module")
def keyed(plain: Server) -> Iterator[Server]:
    """A gateway with a key, which no attacker has."""
    with canned_gateway(plain, {"API_KEY": KEY}) as server:
        yield server


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.parametrize("service", ["plain", "keyed", "sentiment", "embedding", "review", "transformers"])
def test_a_flood_is_ended_and_delays_nobody(request: pytest.FixtureRequest, service: str, name: str) -> None:
    """Whatever is sent without end, and without a key."""
    server: Server = request.getfixturevalue(service)
    before = psutil.Process(server.process.pid).memory_info().rss
    assert_floods_end(server.port, name)
    assert psutil.Process(server.process.pid).memory_info().rss - before < GROWTH_BYTES


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_tiny_chunks_are_refused_where_the_body_is_read(plain: Server, method: str) -> None:
    """A chunk of one byte costs as much as a large one: 2 MB of them would cost seconds."""
    head = f"{method} /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    assert flood(plain.port, head, b"1\r\na\r\n" * 10922).sent < 20_000_000


@pytest.mark.parametrize("service", ["keyed", "review", "transformers"])
def test_nobody_keeps_a_connection_to_a_service_by_dripping(request: pytest.FixtureRequest, service: str) -> None:
    """With the default time limits."""
    server: Server = request.getfixturevalue(service)
    assert_slow_senders_end(server.port)
