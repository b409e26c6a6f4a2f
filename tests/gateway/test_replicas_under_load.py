"""Two replicas behind a real gateway, of which one is lost in some way while many clients ask."""

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import aiohttp
import pytest

from tests.gateway.client_load import CLIENTS, ReplicaPair, client_load, errors_in, eventually_polled, two_replicas
from tests.gateway.support import PATH
from tests.support import serving

STREAMS = 8


@pytest.fixture
def pair() -> Iterator[ReplicaPair]:
    """A test may do anything to either replica."""
    with two_replicas(UPSTREAM_FIRST_BYTE_SECONDS="5") as built:
        yield built


def kill(pair: ReplicaPair, stack: ExitStack) -> Callable[[], None]:
    server = pair.replicas[0]
    server.process.kill()
    server.process.wait()

    def restart() -> None:
        stack.enter_context(serving("tests.scripted_upstream", port_variable="CANNED_PORT", env={}, port=server.port))

    return restart


def freeze(pair: ReplicaPair, stack: ExitStack) -> Callable[[], None]:
    process = pair.replicas[0].process
    process.send_signal(signal.SIGSTOP)
    return lambda: process.send_signal(signal.SIGCONT)


def fail(pair: ReplicaPair, stack: ExitStack) -> Callable[[], None]:
    pair.set_fault(0, "500")
    return lambda: pair.set_fault(0, "")


def slow_down(pair: ReplicaPair, stack: ExitStack) -> Callable[[], None]:
    pair.set_fault(0, "1")
    return lambda: pair.set_fault(0, "")


def hang(pair: ReplicaPair, stack: ExitStack) -> Callable[[], None]:
    pair.set_fault(0, "12")
    return lambda: pair.set_fault(0, "")


def stop(pair: ReplicaPair, stack: ExitStack) -> Callable[[], None]:
    """As a supervisor does it: it finishes what it has."""
    assert pair.replicas[0].stop() == -signal.SIGTERM
    return kill(pair, stack)


@pytest.mark.parametrize("lose", [kill, freeze, fail, slow_down, hang, stop])
async def test_a_replica_that_is_lost_costs_no_request_and_gets_its_share_again_when_it_is_well(
    pair: ReplicaPair, lose: Callable[[ReplicaPair, ExitStack], Callable[[], None]]
) -> None:
    """Neither those that it had, nor those that come before the gateway knows."""
    with ExitStack() as stack:
        async with client_load(pair.gateway) as clients:
            await clients.wait_for_more(200)
            heal = await asyncio.to_thread(lose, pair, stack)
            await clients.wait_for_more(500)
            await asyncio.to_thread(heal)
            served = await asyncio.to_thread(pair.seen, 0, "requests")
            await eventually_polled(lambda: pair.seen(0, "requests") >= served + 5 * CLIENTS)
        assert set(clients.statuses) == {200}
        assert not clients.broken


async def test_an_answer_of_the_llm_may_take_its_whole_time_before_it_begins() -> None:
    """That takes no replica out, and no answer is made twice. The other services have to begin sooner."""
    with two_replicas(UPSTREAM_FIRST_BYTE_SECONDS="1") as pair:
        for number in (0, 1):
            pair.set_fault(number, "2")

        async def ask(http: aiohttp.ClientSession) -> int:
            async with http.post(pair.gateway.url + PATH, json={"case": "echo"}) as answer:
                return answer.status

        async with aiohttp.ClientSession() as http:
            assert await asyncio.gather(*(ask(http) for _ in range(3))) == [200] * 3
        assert pair.seen(0, "requests") + pair.seen(1, "requests") == 3
        lines = map(json.loads, pair.gateway.log().splitlines())
        assert not [line for line in lines if line["event"] == "replica is out" and line.get("upstream") == "llm"]


@pytest.mark.parametrize("lose", [kill, freeze])
async def test_streams_that_a_lost_replica_has_begun_say_that_they_are_cut(
    pair: ReplicaPair, lose: Callable[[ReplicaPair, ExitStack], Callable[[], None]]
) -> None:
    """Each ends with one error event; those at the other replica end as they should."""

    async def read(http: aiohttp.ClientSession) -> bytes:
        body = {"case": "stream", "count": 3, "wait": True}
        async with http.post(pair.gateway.url + PATH, json=body) as answer:
            return await answer.read()

    with ExitStack() as stack:
        async with aiohttp.ClientSession() as http:
            reading = [asyncio.create_task(read(http)) for _ in range(STREAMS)]
            await eventually_polled(lambda: pair.seen(0, "running") + pair.seen(1, "running") == STREAMS)
            lost = await asyncio.to_thread(pair.seen, 0, "running")
            assert 0 < lost < STREAMS
            lose(pair, stack)
            cut, _ = await asyncio.wait(reading, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            assert cut
            await asyncio.to_thread(pair.open, 1)
            streams = await asyncio.gather(*reading)
    assert all(stream.startswith(b"data: 0\n\n") for stream in streams)
    assert sum(stream.endswith(b"data: 2\n\ndata: [DONE]\n\n") for stream in streams) == STREAMS - lost
    assert [len(errors_in(stream)) for stream in streams if b"[DONE]" not in stream] == [1] * lost


@pytest.mark.parametrize("lose", [kill, freeze])
async def test_an_answer_of_which_a_part_is_here_is_asked_for_again(
    pair: ReplicaPair, lose: Callable[[ReplicaPair, ExitStack], Callable[[], None]]
) -> None:
    """Its client has had nothing of it yet, and need not know."""

    async def ask(http: aiohttp.ClientSession) -> object:
        async with http.post(pair.gateway.url + PATH, json={"case": "halves"}) as answer:
            return answer.status, await answer.json()

    with ExitStack() as stack:
        async with aiohttp.ClientSession() as http:
            asking = [asyncio.create_task(ask(http)) for _ in range(STREAMS)]
            await eventually_polled(lambda: pair.seen(0, "running") + pair.seen(1, "running") == STREAMS)
            lose(pair, stack)
            await eventually_polled(lambda: pair.seen(1, "running") == STREAMS)
            await asyncio.to_thread(pair.open, 1)
            assert await asyncio.gather(*asking) == [(200, {"half": 1, "other": 2})] * STREAMS
