"""The plain service, and one that waits for nobody."""

from collections.abc import Iterator

import pytest

from tests.support import Server, serving


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
