"""What the gateway counts, after traffic that is known."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from tests.gateway.gateway_scene import CHAT, GatewayScene, chat_request
from tests.gateway.support import canned_gateway
from tests.shared.cache.support import eventually
from tests.support import Server, free_port, metric, serving

GENERATE = "/generate"
USAGE = {"prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 34}


@pytest.fixture
def canned() -> Iterator[Server]:
    """A canned LLM service; a test may kill it."""
    with serving("tests.scripted_upstream", port_variable="CANNED_PORT", env={}) as server:
        yield server


@pytest.fixture
def door(canned: Server) -> Iterator[Server]:
    """A gateway in front of it, which keeps no answers."""
    with canned_gateway(canned, {"CACHE_ENABLED": "false"}) as server:
        yield server


def ask(door: Server, case: str, path: str = CHAT, **fields: object) -> httpx.Response:
    return httpx.post(door.url + path, json={"case": case, **fields}, timeout=20)


def attempts(door: Server, outcome: str) -> float:
    return metric(door, f'onecard_upstream_attempts_total{{outcome="{outcome}",upstream="llm"}}')


def of_llm(door: Server, name: str) -> float:
    return metric(door, f'onecard_upstream_{name}{{upstream="llm"}}')


def tokens(door: Server, direction: str) -> float:
    return metric(door, f'onecard_upstream_tokens_total{{direction="{direction}",upstream="llm"}}')


def of_replica(door: Server, name: str, number: int) -> float:
    return metric(door, f'onecard_upstream_{name}{{replica="{number}",upstream="llm"}}')


def test_attempts_are_counted_by_what_became_of_them(door: Server) -> None:
    """A refusal is repeated twice, the service's own fault is not; times are those of good answers."""
    for _ in range(3):
        assert ask(door, "echo").status_code == 200
    assert ask(door, "busy").status_code == 503
    assert ask(door, "plain error").status_code == 500
    assert (attempts(door, "ok"), attempts(door, "refused"), attempts(door, "error")) == (3, 3, 1)
    assert of_llm(door, "retries_total") == 2
    assert of_llm(door, "head_seconds_count") == of_llm(door, "seconds_count") == 3
    assert of_llm(door, "head_seconds_sum") <= of_llm(door, "seconds_sum")
    assert (of_replica(door, "in_flight", 0), of_replica(door, "in_service", 0)) == (0, 1)


async def test_an_attempt_is_in_flight_until_its_client_leaves(door: Server) -> None:
    """Then it is given up, and not the service's failure."""
    async with httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.post(door.url + CHAT, json={"case": "slow", "seconds": 20}, timeout=30))
        await eventually(lambda: of_replica(door, "in_flight", 0) == 1)
        asking.cancel()
        await eventually(lambda: attempts(door, "given_up") == 1)
    assert of_replica(door, "in_flight", 0) == 0


def test_a_service_that_dies_in_the_middle_has_broken_off(door: Server) -> None:
    """The stream has begun: nothing is repeated. The next request finds nobody."""
    ask(door, "stream and die", count=2)
    assert attempts(door, "broken_off") == 1
    assert of_llm(door, "retries_total") == 0
    assert ask(door, "echo").status_code == 503
    assert attempts(door, "away") + of_llm(door, "none_free_total") > 0


async def test_a_replica_that_is_killed_is_ejected_and_its_requests_are_repeated(canned: Server) -> None:
    """Each of the two has figures of its own."""
    with (
        serving("tests.scripted_upstream", port_variable="CANNED_PORT", env={}) as second,
        pair(canned, second) as door,
    ):
        second.process.kill()
        second.process.wait()
        for _ in range(10):
            assert ask(door, "echo").status_code == 200
        await eventually(lambda: of_replica(door, "in_service", 1) == 0)
        assert of_replica(door, "in_service", 0) == 1
        assert attempts(door, "ok") == 10
        assert of_llm(door, "retries_total") == attempts(door, "away")
        ejections = 'onecard_upstream_ejections_total{{reason="{}",upstream="llm"}}'
        assert sum(metric(door, ejections.format(reason)) for reason in ("away", "unready")) >= 1


@contextmanager
def pair(first: Server, second: Server) -> Iterator[Server]:
    nobody = f"http://127.0.0.1:{free_port()}"
    env = {
        "LLM_URL": f"{first.url},{second.url}",
        "SENTIMENT_URL": nobody,
        "EMBEDDING_URL": nobody,
        "REVIEW_URL": nobody,
    }
    with serving("gateway", port_variable="GATEWAY_PORT", env={**env, "CACHE_ENABLED": "false"}) as door:
        yield door


def test_retries_that_the_budget_does_not_allow_are_counted(door: Server) -> None:
    """A service that refuses everything uses it up."""
    for _ in range(12):
        ask(door, "busy")
    refused = of_llm(door, "retries_refused_total")
    assert refused > 0
    assert attempts(door, "refused") == 12 + of_llm(door, "retries_total")


@pytest.mark.parametrize("streams", [False, True])
def test_tokens_are_those_that_answers_tell(door: Server, streams: bool) -> None:
    """Of whole answers and of streams; one without `usage` counts none."""
    told = {"choices": [], "usage": USAGE}
    says = {"events": [{"choices": []}, told, "[DONE]"]} if streams else {"answer": told}
    ask(door, "say", **says)
    ask(door, "echo")
    assert (tokens(door, "in"), tokens(door, "out")) == (30, 4)


def test_an_answer_from_the_cache_costs_no_tokens_and_asks_nobody(quiet: GatewayScene) -> None:
    """Its route counts it as a hit, and all of its time as the gateway's own."""
    body = chat_request()
    body["answer"]["usage"] = USAGE
    door = quiet.gateway
    before = tokens(door, "in"), attempts(door, "ok"), *(cached(door, cache) for cache in ("miss", "hit"))
    assert [quiet.post(body).headers["x-cache"] for _ in range(2)] == ["miss", "hit"]
    after = tokens(door, "in"), attempts(door, "ok"), *(cached(door, cache) for cache in ("miss", "hit"))
    assert [now - then for now, then in zip(after, before, strict=True)] == [30, 1, 1, 1]


def cached(door: Server, cache: str) -> float:
    return metric(door, f'onecard_http_cache_total{{cache="{cache}",route="{CHAT}"}}')


def test_overhead_is_what_the_service_did_not_take(door: Server) -> None:
    """One that takes a second takes next to none of it in the gateway."""
    ask(door, "slow", seconds=1)
    assert of_chat(door, "overhead_seconds_count") == 1
    assert of_chat(door, "first_byte_seconds_sum") >= 1
    assert of_chat(door, "overhead_seconds_sum") < of_chat(door, "request_seconds_sum") / 2


def of_chat(door: Server, name: str) -> float:
    return metric(door, f'onecard_http_{name}{{route="{CHAT}"}}')


def test_percentiles_of_the_last_minutes_are_told_when_asked_for(door: Server) -> None:
    """By route, for those that have answered; a refusal at the door is no answer."""
    for _ in range(3):
        ask(door, "echo")
    ask(door, "slow", path=GENERATE, seconds=1)
    ready = f"{door.url}/health/ready"
    assert set(httpx.get(ready).json()) == {"status", "parts"}
    routes = httpx.get(f"{ready}?verbose").json()["routes"]
    assert {route: found["count"] for route, found in routes.items()} == {CHAT: 3, GENERATE: 1}
    assert routes[GENERATE]["p50_ms"] == routes[GENERATE]["p99_ms"] >= 990
    assert 0 < routes[CHAT]["p50_ms"] <= routes[CHAT]["p95_ms"] <= routes[CHAT]["p99_ms"]


def test_two_gateways_count_each_for_itself(canned: Server, door: Server) -> None:
    """Whoever reads them adds them up."""
    with ExitStack() as closing:
        other = closing.enter_context(canned_gateway(canned, {"CACHE_ENABLED": "false"}))
        ask(door, "echo")
        assert (attempts(door, "ok"), attempts(other, "ok")) == (1, 0)
