"""Fixtures of the cache's tests."""

from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from tests.shared.cache.support import MetricsReader, RedisProcess, running_redis


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], AbstractEventLoop]]:
    """The loop that services run on: it orders timers and sockets differently from asyncio's own."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    """A running Redis."""
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture
def figures() -> MetricsReader:
    """An empty registry."""
    return MetricsReader()
