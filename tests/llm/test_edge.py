"""vLLM's port has the edge of all services."""

import pytest

from tests.contract.test_edge import (  # noqa: F401
    ServiceUnderTest,
    test_a_body_for_a_path_without_a_key_is_refused_unread,
    test_a_slash_too_many_is_a_404,
    test_an_unknown_query_parameter_is_named,
    test_head_is_get_without_the_body,
    test_health_is_readiness,
    test_no_key_and_a_wrong_one_are_told_apart,
    test_no_websocket_gets_in,
    test_without_a_key_only_who_asks_for_this_machine_is_answered,
)
from tests.support import Server


@pytest.fixture(scope="module")
def door(vllm: Server) -> ServiceUnderTest:
    """vLLM, with a key."""
    return ServiceUnderTest(vllm, keyed=True)
