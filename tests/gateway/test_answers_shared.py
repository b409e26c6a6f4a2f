"""Answers under way, shared by all who ask for the same."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from tests.gateway.gateway_scene import CHAT, GatewayScene, chat_request, eventually_async, open_streams, stream_request

CROWD = 100


async def test_a_crowd_shares_one_stream(own: GatewayScene) -> None:
    """One request to the service; all get the same bytes, in order, also when half of them leave in the middle."""
    async with AsyncExitStack() as stack:
        answers = await open_streams(own, stream_request(count=20, wait=True), stack, many=CROWD)
        bodies: list[AsyncIterator[bytes]] = [answer.aiter_raw() for answer in answers]
        beginnings = await asyncio.gather(*(anext(body) for body in bodies))
        await asyncio.gather(*(answer.aclose() for answer in answers[: CROWD // 2]))
        own.open()
        stayed = list(zip(beginnings, bodies, strict=True))[CROWD // 2 :]
        wholes = [beginning + b"".join([chunk async for chunk in body]) for beginning, body in stayed]
    assert sorted(answer.headers["x-cache"] for answer in answers) == ["coalesced"] * (CROWD - 1) + ["miss"]
    assert len(set(wholes)) == 1
    assert wholes[0].endswith(b"data: [DONE]\n\n")
    assert wholes[0].count(b"data: ") == 23
    assert own.seen("requests") == 1
    assert own.metric('onecard_cache_coalesced_total{kind="chat"}') == CROWD - 1


@pytest.mark.parametrize("made", [chat_request, stream_request])
async def test_who_alone_may_be_refused_shares_with_none(
    own: GatewayScene, made: Callable[..., dict[str, Any]]
) -> None:
    """An engine may not take a content type, or a field that changes no answer; what is kept is given to all."""
    body = made(wait=True)
    other_type = {"content-type": "application/x+json"}
    async with httpx.AsyncClient(base_url=own.gateway.url, timeout=30) as client:
        asking = [
            asyncio.create_task(client.post(CHAT, json={**body, **more}, headers=headers))
            for more, headers in [({}, {}), ({"store": True}, {}), ({}, other_type), ({"user": "a"}, {})]
        ]
        await eventually_async(lambda: own.metric("onecard_http_in_flight") > len(asking))
        await eventually_async(lambda: own.seen("requests") == 3)
        own.open()
        answers = await asyncio.gather(*asking)
    assert sorted(answer.headers["x-cache"] for answer in answers) == ["coalesced", "miss", "miss", "miss"]
    assert own.seen("requests") == 3
    assert own.post({**body, "store": False}).headers["x-cache"] == "hit"


async def test_when_all_have_left_the_work_is_cancelled(own: GatewayScene) -> None:
    """Not before, and nothing is kept."""
    async with AsyncExitStack() as stack:
        answers = await open_streams(own, stream_request(wait=True), stack, many=10)
        await asyncio.gather(*(answer.aclose() for answer in answers[1:]))
        await eventually_async(lambda: own.metric("onecard_http_in_flight") <= 2)  # Its own look at the figures is one.
        assert own.seen("cancelled") == 0
        await answers[0].aclose()
        await eventually_async(lambda: own.seen("cancelled") == 1)
    assert own.seen("running") == 0


async def test_who_reads_too_slowly_is_cut_off_and_told_so(own: GatewayScene) -> None:
    """A stream that is too long to be kept whole goes on with those who read it."""
    big = {"choices": [{"index": 0, "delta": {"content": "x" * 100_000}}]}
    body = stream_request(events=[big, "[DONE]"], times=300, wait=True)
    async with AsyncExitStack() as stack:
        slow, quick = await open_streams(own, body, stack, many=2)
        assert {slow.headers["x-cache"], quick.headers["x-cache"]} == {"miss", "coalesced"}
        own.open()
        read = [chunk async for chunk in quick.aiter_raw()]
        missed = b"".join([chunk async for chunk in slow.aiter_raw()])
    assert b"".join(read).count(b"[DONE]") == 300
    assert json.loads(missed.rstrip().rpartition(b"data: ")[2])["error"]["code"] == "slow_reader"


async def test_a_crowd_shares_one_answer_but_nobody_elses_time_limit(own: GatewayScene) -> None:
    """Errors are shared by those who wait, and are not kept."""
    body = chat_request(status=500, wait=True)
    async with httpx.AsyncClient(base_url=own.gateway.url, timeout=30) as client:
        hurried = {"x-onecard-timeout-ms": "60000"}
        asking = [asyncio.create_task(client.post(CHAT, json=body)) for _ in range(20)]
        asking += [asyncio.create_task(client.post(CHAT, json=body, headers=hurried)) for _ in range(2)]
        asking.append(asyncio.create_task(client.post(CHAT, json=body, headers={"cache-control": "no-cache"})))
        await eventually_async(lambda: own.metric("onecard_http_in_flight") >= len(asking))
        await eventually_async(lambda: own.seen("requests") == 4)
        own.open()
        answers = await asyncio.gather(*asking)
    assert {answer.status_code for answer in answers} == {500}
    assert sorted(answer.headers["x-cache"] for answer in answers) == ["coalesced"] * 19 + ["miss"] * 4
    assert own.post(body).headers["x-cache"] == "miss"
