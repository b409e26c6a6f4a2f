"""Streams through one gateway: very many, and some that nobody reads."""

import asyncio
import itertools
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import aiohttp
import httpx
import psutil
import pytest

from tests.gateway.client_load import eventually_polled, unread_client
from tests.gateway.gateway_scene import CHAT, GatewayScene, scene
from tests.shared.cache.support import RedisProcess

STREAMS = 1000
EVENTS = 200
GROWTH_BYTES = 200_000_000
"""Most memory that a gateway may come to need for a thousand streams: 200 KB each, two sockets' buffers among them."""
STALLED_GROWTH_BYTES = 60_000_000
"""Most for a few endless streams that nobody reads: their buffers hold some megabytes."""
RELAYED, SHARED = {"temperature": 1.0}, {"temperature": 0.0}

numbers = itertools.count()


@pytest.fixture(scope="module")
def built(redis: RedisProcess) -> Iterator[GatewayScene]:
    """One for all: no test breaks it."""
    with scene(redis) as one:
        yield one


def memory(own: GatewayScene) -> int:
    """Bytes of the gateway that are in RAM."""
    size: int = psutil.Process(own.gateway.process.pid).memory_info().rss
    return size


def asking(case: str, **more: Any) -> dict[str, Any]:
    """A request for a stream, unlike all others."""
    return {"case": case, "nonce": next(numbers), "stream": True, **more}


async def test_a_thousand_streams_at_once_come_whole_and_in_order(built: GatewayScene) -> None:
    """All have begun before any goes on; half are relayed, half are kept on their way."""
    before = memory(built)
    most = before
    done = 0

    async def read(http: aiohttp.ClientSession, body: dict[str, Any]) -> bytes:
        nonlocal most, done
        async with http.post(built.gateway.url + CHAT, json=body) as answer:
            stream = await answer.read()
        done += 1
        if done % 50 == 1:
            most = max(most, memory(built))
        return stream

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        bodies = (asking("stream", count=EVENTS, wait=True, **(RELAYED, SHARED)[n % 2]) for n in range(STREAMS))
        reading = [asyncio.create_task(read(http, body)) for body in bodies]
        await eventually_polled(lambda: built.seen("running") == STREAMS)
        built.open()
        streams = await asyncio.gather(*reading)
    whole = b"".join(b"data: %d\n\n" % number for number in range(EVENTS)) + b"data: [DONE]\n\n"
    assert set(streams) == {whole}
    assert most - before < GROWTH_BYTES


@pytest.mark.parametrize(
    ("path", "terms", "x_cache"),
    [(CHAT, RELAYED, b"x-cache: bypass"), (CHAT, SHARED, b"x-cache: miss"), ("/v1/responses", SHARED, b"")],
    ids=["relayed", "shared", "responses"],
)
async def test_a_client_that_does_not_read_holds_its_stream_back_and_nobody_else(
    built: GatewayScene, path: str, terms: dict[str, float], x_cache: bytes
) -> None:
    """An endless stream stops where it comes from; the gateway does not grow, others are served, and when the clients
    leave, the work ends.
    """
    before = memory(built)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(unread_client(built.gateway, path, asking("flood", size=10_000, **terms)))
            for _ in range(4)
        ]
        for client in clients:
            assert x_cache in client.recv(1024)
        sent = await held_back(built)
        for client in clients:
            assert client.recv(1)  # A byte now and then changes nothing.
        async with httpx.AsyncClient(base_url=built.gateway.url, timeout=30) as other:
            for _ in range(20):
                answer = await other.post(CHAT, json=asking("stream", count=3, seconds=0.0, **terms))
                assert answer.text.endswith("data: [DONE]\n\n")
        assert built.seen("sent") - sent < 1_000_000
        assert memory(built) - before < STALLED_GROWTH_BYTES
    await eventually_polled(lambda: built.seen("running") == 0)


async def test_a_client_that_never_reads_is_cut_off_in_the_end(redis: RedisProcess) -> None:
    """Its stream would hold a place at a replica for ever."""
    with scene(redis, SEND_TIMEOUT_SECONDS="1") as own:
        with unread_client(own.gateway, CHAT, asking("flood", size=10_000, **RELAYED)):
            await eventually_polled(lambda: own.seen("running") == 1)
            await eventually_polled(lambda: own.seen("running") == 0)
        assert "client does not read" in own.gateway.log()


@pytest.mark.parametrize("terms", [RELAYED, SHARED], ids=["relayed", "shared"])
async def test_a_slow_readers_time_is_over_with_its_requests(redis: RedisProcess, terms: dict[str, float]) -> None:
    """However it goes on reading, byte by byte: its place at the service is another's by then."""
    with (
        scene(redis, UPSTREAM_TOTAL_SECONDS="1", UPSTREAM_CONCURRENCY="1") as own,
        unread_client(own.gateway, CHAT, asking("flood", size=10_000, **terms)) as client,
    ):
        assert client.recv(1)
        await eventually_polled(lambda: own.seen("running") == 1)
        reading = asyncio.create_task(_byte_by_byte(client))
        await eventually_polled(lambda: own.seen("running") == 0)
        answer = await asyncio.to_thread(own.post, asking("echo", **terms))
        assert answer.status_code == 200
        reading.cancel()


async def test_a_whole_answer_is_not_held_for_a_slow_reader_for_ever(redis: RedisProcess) -> None:
    """What is held of it makes room when its request's time is over."""
    answer = {"choices": [{"index": 0, "message": {"content": "x" * 8_000_000}, "finish_reason": "stop"}]}
    body = {"case": "say", "nonce": next(numbers), "answer": answer, **SHARED}
    with (
        scene(redis, UPSTREAM_TOTAL_SECONDS="2", MAX_BODY_MB="16") as own,
        unread_client(own.gateway, CHAT, body) as client,
    ):
        assert client.recv(1)
        assert own.metric("onecard_buffers_bytes") > 8_000_000
        reading = asyncio.create_task(_byte_by_byte(client))
        await eventually_polled(lambda: own.metric("onecard_buffers_bytes") == 0)
        reading.cancel()


async def _byte_by_byte(client: socket.socket) -> None:
    while True:
        await asyncio.sleep(0.05)
        with suppress(OSError):
            client.recv(1)


async def test_a_client_that_reads_slowly_gets_all(redis: RedisProcess) -> None:
    """Much longer than the time limit after which one that does not read is cut off."""
    size = 8_000_000
    with (
        scene(redis, SEND_TIMEOUT_SECONDS="0.5", MAX_BODY_MB="16") as own,
        unread_client(own.gateway, CHAT, {"case": "echo", "padding": "x" * size}, buffer_bytes=65_536) as client,
    ):
        received = 0
        while received < size:
            chunk = client.recv(100_000)
            assert chunk, f"cut off after {received} bytes"
            received += len(chunk)
            await asyncio.sleep(0.1)


async def held_back(own: GatewayScene) -> int:
    """Wait until the service can send no more; the bytes that it has sent."""
    sent = [-3, -2, -1]
    while len(set(sent[-3:])) > 1:
        await asyncio.sleep(0.2)
        sent.append(own.seen("sent"))
        assert len(sent) < 200, "the stream is not held back"
    return sent[-1]
