"""Fixtures of the tests of kept and shared answers."""

from collections.abc import Iterator

import pytest

from tests.gateway.answering import Scene, scene
from tests.shared.cache.support import Redis, running_redis


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """One Redis for all; each test asks for something of its own."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def quiet(redis: Redis) -> Iterator[Scene]:
    """A scene that nobody breaks."""
    with scene(redis) as built:
        yield built


@pytest.fixture
def own(redis: Redis) -> Iterator[Scene]:
    """A scene to break: its gate is closed, its service may be killed."""
    with scene(redis, UPSTREAM_READ_SECONDS="5") as built:
        yield built
