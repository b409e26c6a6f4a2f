"""What counts, what it may cost, and what it costs in the end: the layer round all routes."""

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from gateway.limits import reservation
from gateway.limits.metrics import RateLimitMetrics
from gateway.limits.middleware import RateLimitMiddleware
from gateway.limits.rate_limit import RateLimit
from gateway.limits.rate_limiter import RateLimiter
from gateway.routes import ROUTES
from gateway.telemetry.response_tap import ResponseTap
from gateway.telemetry.token_usage import TokenUsageCounter
from gateway.telemetry.trace import RequestTrace, SharedComputation
from onecard.errors import DeadlineExceeded, RateLimited, TooBusy, Unavailable
from onecard.web.disconnect import ClientDisconnected
from tests.gateway.support import key
from tests.shared.cache.support import MetricsReader, eventually

CHAT = "/v1/chat/completions"
EXPECTED = 512

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def cost(path: str, **fields: Any) -> int:
    """What is reserved for the answers alone."""
    body = json.dumps(fields).encode()
    return reserved("POST", path, body) - -(-len(body) // 4)


def reserved(method: str, path: str, body: bytes) -> int:
    """What is reserved for a request that counts."""
    scope = {"method": method, "path": path, "state": {"body": body}}
    cost = ROUTES.cost(method, path)
    assert cost is not None
    return reservation.reserved_tokens(cost, ROUTES.json(scope), EXPECTED)


def counts(method: str, path: str) -> bool:
    """It counts against its key's limits."""
    return ROUTES.cost(method, path) is not None


@pytest.mark.parametrize(
    ("path", "fields", "tokens"),
    [
        (CHAT, {}, EXPECTED),
        (CHAT, {"max_tokens": 7}, 7),
        (CHAT, {"max_completion_tokens": 9, "max_tokens": 7}, 9),
        (CHAT, {"max_tokens": 7, "n": 3}, 21),
        (CHAT, {"n": 3}, 3 * EXPECTED),
        (CHAT, {"max_tokens": "7", "n": True}, EXPECTED),
        (CHAT, {"max_tokens": 900.0, "n": 3}, 2700),
        (CHAT, {"max_tokens": 900.5}, EXPECTED),
        (CHAT, {"max_tokens": -7, "n": 0}, EXPECTED),
        (CHAT, {"max_tokens": 0}, 0),
        ("/v1/completions", {"max_tokens": 7, "n": 2, "best_of": 5}, 35),
        ("/v1/completions", {"max_tokens": 7, "prompt": ["a", "b", "c"]}, 21),
        ("/v1/completions", {"max_tokens": 7, "prompt": [[1, 2], [3]], "n": 2}, 28),
        ("/v1/completions", {"max_tokens": 7, "prompt": [1, 2, 3]}, 7),
        ("/v1/responses", {"max_output_tokens": 7}, 7),
        ("/generate", {"max_tokens": 7}, 7),
        ("/v1/embeddings", {"input": "a", "max_tokens": 7}, 0),
        ("/v1/reviews", {"text": "a"}, 0),
    ],
)
def test_answers_are_reserved_as_they_are_asked_for(path: str, fields: dict[str, Any], tokens: int) -> None:
    """Every answer, each as long as it may be; what says nothing that counts is taken for the usual."""
    assert cost(path, **fields) == tokens


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()), st.sampled_from([CHAT, "/generate"]))
def test_any_body_has_a_cost(body: bytes, path: str) -> None:
    """The service says what is wrong with it."""
    assert 0 <= reserved("POST", path, body) <= 10**9


@given(st.dictionaries(st.sampled_from(["max_tokens", "n", "best_of", "prompt", "max_completion_tokens"]), json_values))
def test_any_fields_have_a_cost(fields: dict[str, Any]) -> None:
    """Of any types and sizes."""
    assert 0 <= reserved("POST", "/v1/completions", json.dumps(fields).encode()) <= 10**9


def test_what_makes_models_work_counts() -> None:
    """Every POST, and of what is only read the two that may have the LLM write; by the routes that there are."""
    reads = {
        relayed.path: counts("GET", relayed.path.replace("{restaurant_id}", "가 나"))
        for relayed in ROUTES
        if relayed.method == "GET"
    }
    assert {path for path, counts in reads.items() if counts} == {
        "/v1/restaurants/{restaurant_id}/summary",
        "/v1/restaurants/{restaurant_id}/strengths",
    }
    assert counts("GET", "/v1/restaurants/1/summary\n"), "the routes take that path, too"
    assert all(counts("POST", path) for path in (CHAT, "/nowhere"))
    assert not any(counts(method, "/v1/models") for method in ("GET", "HEAD", "OPTIONS"))
    assert reserved("GET", "/v1/restaurants/1/summary", b"") == EXPECTED


class LimitedGateway:
    """The layer before an app that does as it is told, and a key with limits."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Any], **quota: int) -> None:
        self.figures = MetricsReader()
        self.limits = RateLimiter(RateLimit(**quota), None, RateLimitMetrics(self.figures.registry))
        self._state = SimpleNamespace(state=SimpleNamespace(service=SimpleNamespace(rate_limiter=self.limits)))
        self._layer = RateLimitMiddleware(app, ROUTES, EXPECTED)

    async def ask(self, method: str = "POST", path: str = CHAT, body: bytes = b'{"max_tokens": 50}') -> list[Message]:
        """One request; what its client is sent."""
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            raise AssertionError("nothing is read here")

        state = {"caller": key("a"), "body": body, "trace": RequestTrace()}
        scope = {"type": "http", "method": method, "path": path, "app": self._state, "state": state}
        await self._layer(scope, receive, send)
        return sent

    async def used(self) -> int:
        """Tokens that count now."""
        caller = key("a")
        quota = self.limits.rate_limit(caller)
        assert quota.tokens is not None
        told = (await self.limits.admit(caller, quota)).headers
        return quota.tokens - int(told["x-ratelimit-remaining-tokens"])


def answering(
    status: int,
    *chunks: bytes,
    content_type: bytes = b"application/json",
    then: Exception | None = None,
    attempts: int = 0,
    x_cache: bytes = b"miss",
):  # type: ignore[no-untyped-def]
    """An app that answers so, counted as relayed routes are, or is left in the middle."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["trace"].attempts = attempts
        ResponseTap.of(scope, send).token_usage = TokenUsageCounter(len(scope["state"]["body"]))
        if chunks or then is None:
            headers = [(b"content-type", content_type), (b"x-cache", x_cache)]
            await send({"type": "http.response.start", "status": status, "headers": headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if then is not None:
            raise then
        await send({"type": "http.response.body", "body": b""})

    return app


@pytest.mark.parametrize("path", ["/v1/restaurants/1/summary", "/v1/restaurants/1/strengths"])
async def test_reading_what_the_llm_writes_counts_as_a_request(path: str) -> None:
    """As a POST does; reading what is only counted does not."""
    door = LimitedGateway(answering(200), requests=1)
    outcomes = await asyncio.gather(*(door.ask("GET", path, b"") for _ in range(50)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [list] + [RateLimited] * 49
    assert await door.ask("GET", "/v1/restaurants/1/sentiment", b"")


USAGE = b'{"usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}'
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "0123456789ab"}}]}\n\n'
RESERVED = 5 + 50
"""The body's 18 bytes, and what it asks for."""


@pytest.mark.parametrize(
    ("app", "cost"),
    [
        (answering(200, USAGE), 7),
        (answering(503, USAGE), 0),
        (answering(200, then=TooBusy("")), 0),
        (answering(200, then=ClientDisconnected()), 0),
        (answering(200, then=ClientDisconnected(), attempts=1), RESERVED),
        (answering(200, then=asyncio.CancelledError(), attempts=1), RESERVED),  # type: ignore[arg-type]
        (answering(200, EVENT, content_type=b"text/event-stream", then=ClientDisconnected()), 5 + 3),
        (answering(200, b'{"choices": [', then=ClientDisconnected()), RESERVED),
        (answering(200, USAGE, then=ClientDisconnected()), RESERVED),
        (answering(503, b'{"error": ', then=ClientDisconnected()), 0),
        (answering(200, then=DeadlineExceeded(""), attempts=1), RESERVED),
        (answering(200, then=DeadlineExceeded("")), 0),
        (answering(200, then=Unavailable(""), attempts=1), 0),
        (answering(504, b"{}", attempts=1), RESERVED),
        (answering(504, b"{}"), 0),
        (answering(200, USAGE, then=ClientDisconnected(), x_cache=b"hit"), 7),
    ],
    ids=[
        *("answered", "failed", "refused", "left the queue", "left before it began", "cancelled", "left in the middle"),
        *("left in the middle of what is no stream", "left behind its usage", "left in the middle of an error"),
        *("too late", "too late in the queue", "no replica"),
        *("too late by the service's clock", "too late for somebody else's request", "left behind what was cached"),
    ],
)
async def test_an_answer_costs_what_it_says_and_one_that_is_abandoned_what_was_made(app: Any, cost: int) -> None:
    """Nothing for what nobody worked on; what was reserved, where nobody knows how much of it was."""
    door = LimitedGateway(app, tokens=1000)
    await asyncio.gather(door.ask(), return_exceptions=True)
    assert await door.used() == cost
    assert door.figures("onecard_limits_tokens_total", caller="a") == cost


async def test_forty_at_once_are_refused_by_what_they_may_cost() -> None:
    """Before any of them is answered: 18 of 55 tokens are the limit of 1,000."""
    gate, admitted = asyncio.Event(), 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal admitted
        admitted += 1
        await gate.wait()

    door = LimitedGateway(app, tokens=1000)
    tasks = [asyncio.create_task(door.ask()) for _ in range(40)]
    await eventually(lambda: admitted + sum(task.done() for task in tasks) == 40)
    gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(outcome, RateLimited) for outcome in outcomes) == 40 - 1000 // RESERVED


def test_who_waits_for_anothers_computation_is_worked_for_once_that_is_sent() -> None:
    """Also where another request had to begin it anew, because that of the first was refused."""
    first, second, waits = RequestTrace(), RequestTrace(), RequestTrace()
    first.computation = second.computation = waits.computation = computation = SharedComputation()
    computation.trace = first
    assert not waits.is_worked_on
    computation.trace = second
    second.attempts = 1
    assert waits.is_worked_on
    assert not RequestTrace().is_worked_on
