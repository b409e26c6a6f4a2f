"""The plain service, one that waits for nobody, and services as their users have them."""

from collections.abc import Iterator

import pytest

from tests.gateway.support import canned_gateway
from tests.support import KEY, Server, free_port, serving


@pytest.fixture(scope="session")
def plain() -> Iterator[Server]:
    """With the default limits."""
    with serving("tests.protocol.app", port_variable="PLAIN_PORT", env={}) as server:
        yield server


@pytest.fixture(scope="session")
def hasty() -> Iterator[Server]:
    """With limits of a second or two."""
    env = {"HEADER_TIMEOUT_SECONDS": "2", "BODY_TIMEOUT_SECONDS": "2", "SEND_TIMEOUT_SECONDS": "1"}
    with serving("tests.protocol.app", port_variable="PLAIN_PORT", env=env) as server:
        yield server


@pytest.fixture
def own() -> Iterator[Server]:
    """With the default limits, to be stopped by the test."""
    with serving("tests.protocol.app", port_variable="PLAIN_PORT", env={}) as server:
        yield server


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
