"""A gateway that is told to stop while it has much to do."""

import asyncio
import socket
from collections.abc import Iterator

import aiohttp
import pytest

from tests.gateway.client_load import CLIENTS, ReplicaPair, client_load, eventually_polled, two_replicas, unread_client
from tests.gateway.support import PATH

WAITING = 10
DRAIN_SECONDS = 60


@pytest.fixture
def pair() -> Iterator[ReplicaPair]:
    """The gateway ends in each test."""
    with two_replicas(DRAIN_SECONDS=str(DRAIN_SECONDS)) as built:
        yield built


def refuses(port: int) -> bool:
    """Whether nobody takes a new connection there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return True
    return False


async def test_what_was_accepted_is_answered_and_what_comes_later_is_refused(pair: ReplicaPair) -> None:
    """Answers that are waited for and streams in the middle end as they should; then the gateway does."""

    async def ask(http: aiohttp.ClientSession, case: str) -> tuple[int, bytes]:
        async with http.post(pair.gateway.url + PATH, json={"case": case, "count": 2, "wait": True}) as answer:
            return answer.status, await answer.read()

    def running() -> int:
        return int(pair.seen(0, "running") + pair.seen(1, "running"))

    async with aiohttp.ClientSession() as http:
        asking = [asyncio.create_task(ask(http, case)) for case in ("halves", "stream") for _ in range(WAITING)]
        await eventually_polled(lambda: running() == 2 * WAITING)
        pair.gateway.process.terminate()
        await eventually_polled(lambda: refuses(pair.gateway.port))
        assert running() == 2 * WAITING
        pair.open(0)
        pair.open(1)
        answers = await asyncio.gather(*asking)
    stream = b"data: 0\n\ndata: 1\n\ndata: [DONE]\n\n"
    assert answers == [(200, b'{"half": 1,"other": 2}')] * WAITING + [(200, stream)] * WAITING
    await eventually_polled(lambda: pair.gateway.process.poll() is not None)
    assert "Traceback" not in pair.gateway.log()


async def test_no_request_that_got_through_is_lost(pair: ReplicaPair) -> None:
    """Among clients who ask without a pause, each request that a service has seen is answered."""
    async with client_load(pair.gateway) as clients:
        await clients.wait_for_more(200)
        pair.gateway.process.terminate()
        await eventually_polled(lambda: refuses(pair.gateway.port))
        clients.stopping.set()
    assert pair.seen(0, "requests") + pair.seen(1, "requests") == clients.statuses[200]
    assert set(clients.statuses) == {200}
    await eventually_polled(lambda: pair.gateway.process.poll() is not None)


async def test_a_service_that_stops_ends_its_streams_and_costs_no_request(pair: ReplicaPair) -> None:
    """What comes meanwhile goes to the other replica."""

    async def read(http: aiohttp.ClientSession) -> bytes:
        body = {"case": "stream", "count": 30, "seconds": 0.1}
        async with http.post(pair.gateway.url + PATH, json=body) as answer:
            return await answer.read()

    async with aiohttp.ClientSession() as http, client_load(pair.gateway) as clients:
        reading = [asyncio.create_task(read(http)) for _ in range(WAITING)]
        await eventually_polled(lambda: pair.seen(0, "running") > 0)
        pair.replicas[0].process.terminate()
        await eventually_polled(lambda: refuses(pair.replicas[0].port))
        await clients.wait_for_more(20 * CLIENTS)
        streams = await asyncio.gather(*reading)
    assert set(streams) == {b"".join(b"data: %d\n\n" % number for number in range(30)) + b"data: [DONE]\n\n"}
    assert set(clients.statuses) == {200}
    assert not clients.broken


async def test_a_client_that_does_not_read_keeps_no_gateway_from_stopping() -> None:
    """It is given the time that everybody gets."""
    with (
        two_replicas(DRAIN_SECONDS="1") as pair,
        unread_client(pair.gateway, PATH, {"case": "flood", "size": 10_000, "stream": True}) as client,
    ):
        assert client.recv(1)
        pair.gateway.process.terminate()
        await eventually_polled(lambda: pair.gateway.process.poll() is not None)
        await eventually_polled(lambda: pair.seen(0, "running") + pair.seen(1, "running") == 0)


async def test_a_stream_that_is_not_finished_in_time_says_so() -> None:
    """What it has brought is whole events, and no client takes it for the end."""
    with two_replicas(DRAIN_SECONDS="1") as pair:
        asked = {"case": "stream", "count": 1000, "seconds": 0.1, "stream": True}
        async with aiohttp.ClientSession() as http, http.post(pair.gateway.url + PATH, json=asked) as answer:
            await answer.content.readany()
            pair.gateway.process.terminate()
            events = (await answer.read()).removesuffix(b"\n\n").split(b"\n\n")
    assert b'"code":"unavailable"' in events[-1].replace(b" ", b"")
    assert b"[DONE]" not in events
