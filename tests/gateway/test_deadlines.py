"""How long a request may take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream import deadline
from onecard.errors import InvalidRequest
from onecard.web.request_parsing import TIMEOUT_HEADER


@given(st.floats(1, 1e9), st.floats(0.001, 1e6), st.floats(0, 1e6))
def test_a_service_is_told_what_is_left(given_ms: float, most: float, passed: float) -> None:
    """Never more than the client asked for or the gateway allows, never nothing, and less as time passes."""
    now = 100.0
    own = deadline.deadline_of({TIMEOUT_HEADER: repr(given_ms)}, most, lambda: now)
    now += passed
    assert 0 <= own.remaining <= max(0.0, min(given_ms / 1000, most) - passed) + 1e-6
    assert 1 <= int(own.headers()[TIMEOUT_HEADER]) <= max(1, own.remaining * 1000)


@pytest.mark.parametrize("value", ["", "soon", "0", "-1", "inf", "nan"])
def test_a_limit_that_means_nothing_is_refused(value: str) -> None:
    """The message names the header."""
    with pytest.raises(InvalidRequest, match=TIMEOUT_HEADER):
        deadline.deadline_of({TIMEOUT_HEADER: value}, 1.0, lambda: 0.0)
