"""Bytes without end, at every service's port but vLLM's, which has its own test."""

import psutil
import pytest

from tests.protocol.attacks import FLOODS, assert_floods_end, assert_slow_senders_end, flood
from tests.support import Server

GROWTH_BYTES = 60_000_000
"""Most memory that all of them may leave behind."""


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
