"""A full encoder is not asked again for a moment: its refusal is repeated."""

import time

import httpx
import pytest

from gateway.answers.refusals import REMEMBERED_SECONDS, Refusals, terms
from gateway.calls import Call
from tests.gateway.answering import Scene
from tests.gateway.support import error_of

EMBED = "/v1/embeddings"


def test_a_refusal_is_repeated_for_a_moment() -> None:
    """To requests of the same terms, and to no others."""
    now = 5.0
    refusals = Refusals[str](lambda: now)
    assert refusals.recent("a") is None
    refusals.add("a", "full")
    refusals.add(None, "late")
    assert (refusals.recent("a"), refusals.recent("b"), refusals.recent(None)) == ("full", None, None)
    now += REMEMBERED_SECONDS
    assert refusals.recent("a") is None
    for number in range(10_000):
        refusals.add(number, "full")
    assert len(refusals._refusals) <= 1000


@pytest.mark.parametrize(
    ("body", "headers", "alike"),
    [
        (b'{"input": "b"}', {}, True),
        (b'{"input": "b"}', {"x-onecard-lane": "bulk"}, False),
        (b'{"input": ["b", "c"]}', {}, False),
        (b'{"input": "b"}', {"x-onecard-timeout-ms": "60000"}, False),
    ],
)
def test_what_is_judged_alike_is_refused_alike(body: bytes, headers: dict[str, str], alike: bool) -> None:
    """Not another lane, another number of texts, another time limit."""
    asked = terms(Call("POST", EMBED, {}, b'{"input": "a"}'))
    assert (terms(Call("POST", EMBED, headers, body)) == asked) == alike


def test_a_full_encoder_is_asked_now_and_then(own: Scene) -> None:
    """All are told what it said, most without asking it; it is asked again as soon as it may have room."""
    httpx.post(f"{own.canned.url}/ail", content="429")
    before = own.seen("requests")
    for number in range(100):
        answer = own.post({"case": "echo", "input": f"{number}"}, EMBED)
        assert error_of(answer, 429)["code"] == "too_busy"
        assert answer.headers["retry-after"] == "3"
    assert own.seen("requests") - before < 100
    httpx.post(f"{own.canned.url}/ail", content="")
    time.sleep(REMEMBERED_SECONDS)
    assert own.post({"case": "echo", "input": "in"}, EMBED).status_code == 200
