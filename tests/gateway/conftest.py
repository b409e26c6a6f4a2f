"""Fixtures of the tests of kept and shared answers, and the event loops of those of connections."""

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop

from tests.gateway.gateway_scene import GatewayScene, scene
from tests.shared.cache.support import RedisProcess, running_redis


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The gateway runs on uvloop, whose transports end and pause in ways of their own."""
    both = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return both if item.path.name in ("test_transport.py", "test_connecting.py") else {"asyncio": both["asyncio"]}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """One Redis for all; each test asks for something of its own."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def quiet(redis: RedisProcess) -> Iterator[GatewayScene]:
    """A scene that nobody breaks."""
    with scene(redis) as built:
        yield built


@pytest.fixture
def own(redis: RedisProcess) -> Iterator[GatewayScene]:
    """A scene to break: its gate is closed, its service may be killed."""
    with scene(redis, UPSTREAM_READ_SECONDS="5") as built:
        yield built
