"""Fixtures of the cache's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared.cache.support import Figures, Redis, running_redis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A running Redis."""
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture
def figures() -> Figures:
    """An empty registry."""
    return Figures()
