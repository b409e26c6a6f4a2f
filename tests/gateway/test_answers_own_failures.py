"""What fails for one caller, by its place in the queue or its time limit, fails for nobody who shares its answer."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.gateway_scene import CHAT, GatewayScene, chat_request, eventually_async, scene, stream_request
from tests.gateway.support import error_of, key, secret_of, write_keys
from tests.shared.cache.support import RedisProcess

TOTAL_SECONDS = 4.0

Made = Callable[..., dict[str, Any]]


@pytest.fixture
def own(redis: RedisProcess, tmp_path: Path) -> Iterator[GatewayScene]:
    """A service that takes one request at a time, a short queue, two keys, and a closed gate."""
    write_keys(tmp_path / "keys.json", [key("flooder"), key("other")])
    env = {"UPSTREAM_CONCURRENCY": "1", "UPSTREAM_QUEUE": "4", "API_KEYS_FILE": str(tmp_path / "keys.json")}
    with scene(redis, **env) as built:
        built.client.headers = httpx.Headers(key_of("other"))
        yield built


@pytest.fixture
async def client(own: GatewayScene) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=own.gateway.url, timeout=30) as opened:
        yield opened


def key_of(caller: str) -> dict[str, str]:
    """Who asks."""
    return {"authorization": f"Bearer {secret_of(caller)}"}


async def begin(
    own: GatewayScene, client: httpx.AsyncClient, caller: str, body: dict[str, Any]
) -> "asyncio.Task[httpx.Response]":
    """One more request, once it is under way."""
    before = own.metric("onecard_http_in_flight")
    task = asyncio.create_task(client.post(CHAT, json=body, headers=key_of(caller)))
    await eventually_async(lambda: own.metric("onecard_http_in_flight") > before)
    return task


@pytest.mark.parametrize("made", [chat_request, stream_request])
@pytest.mark.parametrize("leader", ["flooder", "other"])
async def test_who_is_pushed_out_of_the_queue_takes_nobody_along(
    own: GatewayScene, client: httpx.AsyncClient, made: Made, leader: str
) -> None:
    """A key that floods is refused; another one that wants the same answer gets it, whichever of them asked first."""
    occupies = await begin(own, client, "other", chat_request(wait=True))
    await eventually_async(lambda: own.seen("requests") == 1)
    flood = [await begin(own, client, "flooder", chat_request()) for _ in range(3)]
    wanted, follower = made(), {"flooder": "other", "other": "flooder"}[leader]
    shared = {caller: await begin(own, client, caller, wanted) for caller in (leader, follower)}
    assert own.metric("onecard_upstream_waiting") == 4
    crowds_out = asyncio.create_task(client.post(CHAT, json=chat_request(), headers=key_of("other")))
    await eventually_async(lambda: own.metric("onecard_upstream_queue_full_total") == (2 if leader == "flooder" else 1))
    own.open()
    answers = {caller: await task for caller, task in shared.items()}
    if leader == "flooder":
        assert error_of(answers["flooder"], 429)["code"] == "too_busy"
        assert (answers["other"].status_code, answers["other"].headers["x-cache"]) == (200, "miss")
    else:
        assert {caller: answer.headers["x-cache"] for caller, answer in answers.items()} == {
            "other": "miss",
            "flooder": "coalesced",
        }
        assert answers["flooder"].content == answers["other"].content
    assert {(await task).status_code for task in (occupies, crowds_out)} == {200}
    assert sorted([(await task).status_code for task in flood]) == [200, 200, 429]


@pytest.mark.parametrize("made", [chat_request, stream_request])
async def test_each_who_shares_waits_within_its_own_time_limit(redis: RedisProcess, made: Made) -> None:
    """Who began is told that its time is over; who came later gets the answer that was begun for both, and whole."""
    with scene(redis, UPSTREAM_TOTAL_SECONDS=str(TOTAL_SECONDS)) as own:
        async with httpx.AsyncClient(base_url=own.gateway.url, timeout=30) as client:
            wanted = made(wait=True)
            leader = await begin(own, client, "flooder", wanted)
            await eventually_async(lambda: own.seen("requests") == 1)
            await asyncio.sleep(TOTAL_SECONDS / 2)
            follower = await begin(own, client, "other", wanted)
            late = await leader
            own.open()
            answer = await follower
        if made is chat_request:
            assert error_of(late, 504)["code"] == "deadline_exceeded"
        else:
            assert "deadline_exceeded" in late.text.rpartition("data: ")[2]
            assert answer.text.endswith("data: [DONE]\n\n")
        assert (answer.status_code, answer.headers["x-cache"]) == (200, "coalesced")
        assert (own.seen("requests"), own.seen("cancelled")) == (1, 0)


@pytest.mark.parametrize("made", [chat_request, stream_request])
@pytest.mark.parametrize(("joins", "is_charged"), [("the queue", False), ("a computation", True), ("both", False)])
async def test_who_leaves_pays_only_for_what_a_service_has_had(
    redis: RedisProcess, tmp_path: Path, made: Made, joins: str, is_charged: bool
) -> None:
    """All that was reserved, or what has come of a stream, whoever has begun the computation; nothing while that waits
    for a slot.
    """
    write_keys(tmp_path / "keys.json", [key("occupies"), key("leaves", tokens_per_minute=100_000)])
    env = {"UPSTREAM_CONCURRENCY": "1", "API_KEYS_FILE": str(tmp_path / "keys.json")}
    with scene(redis, **env) as own:
        own.client.headers = httpx.Headers(key_of("occupies"))
        async with httpx.AsyncClient(base_url=own.gateway.url, timeout=30) as client:
            running, wanted = chat_request(wait=True), made(max_tokens=1000)
            if joins == "a computation":
                running = wanted = made(wait=True, max_tokens=1000)
            others = [await begin(own, client, "occupies", running)]
            await eventually_async(lambda: own.seen("requests") == 1)
            if joins == "both":
                others.append(await begin(own, client, "occupies", wanted))
            leaving = await begin(own, client, "leaves", wanted)
            await eventually_async(lambda: own.metric("onecard_upstream_waiting") == (joins != "a computation"))
            await eventually_async(lambda: own.metric('onecard_limits_requests_total{caller="leaves"') == 1)
            leaving.cancel()
            await eventually_async(lambda: 'status="499"' in own.client.get("/metrics").text)
            charged = own.metric('onecard_limits_tokens_total{caller="leaves"}')
            assert charged > (1000 if made is chat_request else 0) if is_charged else charged == 0
            own.open()
            assert {(await task).status_code for task in others} == {200}
