"""A pool of real replicas, of which one is lost in some way while requests come in."""

import asyncio
import gc
import re
import signal
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager, closing

import orjson
import pytest
import structlog.testing
from prometheus_client import CollectorRegistry
from starlette.types import Message

from gateway.relay import relay
from gateway.telemetry.metrics import UpstreamMetrics
from gateway.telemetry.trace import RequestTrace
from gateway.upstream.concurrency_limiter import FairConcurrencyLimiter
from gateway.upstream.health_checker import health_checking
from gateway.upstream.http_client import HttpClient
from gateway.upstream.load_balancer import LoadBalancer
from gateway.upstream.request import UpstreamRequest, send
from gateway.upstream.response import UpstreamResponse
from gateway.upstream.services import Upstream, UpstreamTimeouts
from onecard.errors import BadUpstream, Unavailable
from onecard.web.buffer_semaphore import BufferSemaphore
from onecard.web.disconnect import ClientDisconnected
from tests.shared.cache.support import eventually
from tests.support import Server, free_port, serving

PATH = "/v1/chat/completions"
FOUND_SECONDS = 30.0
"""Longest wait for a check to find out; the last replica may miss five of them, of 2 s each."""


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    """Two replicas; a test may kill or freeze one."""
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(serving("tests.scripted_upstream", port_variable="CANNED_PORT", env={}))
            for _ in range(2)
        )
        yield first, second
        for server in (first, second):
            if server.process.poll() is None:
                server.process.send_signal(signal.SIGCONT)


Ask = Callable[[str], Awaitable[int]]
"""Asks the service for an answer, and gives its status."""


@asynccontextmanager
async def watched(*urls: str) -> AsyncIterator[tuple[LoadBalancer, Ask]]:
    """A pool of these replicas, which are being checked, and a caller of it."""
    pool = LoadBalancer("llm", urls, UpstreamMetrics(CollectorRegistry()).of("llm"))
    async with aclosing(HttpClient(2.0)) as connections, health_checking(pool, connections):
        upstream = Upstream(
            "llm", connections, pool, FairConcurrencyLimiter(100, 100, pool.metrics), {}, UpstreamTimeouts(60, 60, 60)
        )
        yield pool, lambda case: ask_for(case, upstream)


async def ask_for(case: str, upstream: Upstream) -> int:
    body = orjson.dumps({"case": case, "seconds": 20})
    with closing(BufferSemaphore(1_000_000).lease()) as buffers:
        request = UpstreamRequest("POST", PATH, {"content-type": "application/json"}, body, buffers)
        reply = await send(request, upstream)
        await reply.read()
        reply.close()
        return reply.status


async def many(ask: Ask, count: int = 40) -> None:
    """Requests, eight at a time; each one gets its answer."""
    gate = asyncio.Semaphore(8)

    async def one() -> None:
        async with gate:
            assert await ask("echo") == 200

    await asyncio.gather(*(one() for _ in range(count)))


async def test_a_killed_replica_costs_no_request_and_is_back_by_itself(pair: tuple[Server, Server]) -> None:
    """Each change is logged once, by the replica's number and without its address."""
    first, second = pair
    with structlog.testing.capture_logs() as logged:
        async with watched(first.url, second.url) as (pool, ask):
            await many(ask)
            first.process.kill()
            first.process.wait()
            await many(ask)
            await eventually(lambda: pool.endpoints.ejected_for(0) == "unready", FOUND_SECONDS)
            await many(ask)
            with serving("tests.scripted_upstream", port_variable="CANNED_PORT", env={}, port=first.port):
                await eventually(lambda: pool.endpoints.ejected_for(0) is None, FOUND_SECONDS)
                await many(ask)
    told = [(line["event"], line.get("reason")) for line in logged if line.get("replica") == 0]
    assert told[-2:] == [("replica is out", "unready"), ("replica is back", None)]
    assert len(told) == len(set(told))
    assert str(first.port) not in str(logged)


async def test_requests_at_a_frozen_replica_are_answered_by_another(pair: tuple[Server, Server]) -> None:
    """Those that it had when it froze, too: they do not wait for their own time limit."""
    first, second = pair
    async with watched(first.url, second.url) as (pool, ask):
        first.process.send_signal(signal.SIGSTOP)
        await many(ask)
        assert pool.endpoints.ejected_for(0) == "unready"
        assert not pool.pending_timeouts[0]
        first.process.send_signal(signal.SIGCONT)
        await eventually(lambda: pool.endpoints.ejected_for(0) is None, FOUND_SECONDS)
        await many(ask)


async def test_a_replica_that_answers_500_costs_no_request(pair: tuple[Server, Server]) -> None:
    """Its readiness checks pass all the time."""

    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if length := re.search(rb"content-length: (\d+)", head):
            await reader.readexactly(int(length[1]))
        status = b"200 OK" if b"/health/ready" in head else b"500 Internal Server Error"
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    port = free_port()
    async with (
        await asyncio.start_server(fail, "127.0.0.1", port),
        watched(f"http://127.0.0.1:{port}", pair[0].url) as (pool, ask),
    ):
        await many(ask)
        assert pool.endpoints.ejected_for(0) == "errors"


async def test_a_service_that_is_down_is_said_to_be_at_once_and_works_when_it_is_back(
    pair: tuple[Server, Server],
) -> None:
    """It has one replica, which is frozen: one client finds out, the others do not have to."""
    server = pair[0]
    async with watched(server.url) as (pool, ask):
        server.process.send_signal(signal.SIGSTOP)
        await eventually(lambda: pool.endpoints.ejected_for(0) == "unready", FOUND_SECONDS)
        trial = asyncio.ensure_future(ask("echo"))
        await eventually(lambda: pool.endpoints.in_flight(0) == 1)
        with pytest.raises(Unavailable):
            await ask("echo")
        server.process.send_signal(signal.SIGCONT)
        assert await trial == 200
        assert await ask("echo") == 200


async def test_leases_that_are_given_up_are_counted_out(pair: tuple[Server, Server]) -> None:
    """A client that leaves takes its request with it, and says nothing against the replica."""
    async with watched(pair[0].url) as (pool, ask):
        waiting = [asyncio.ensure_future(ask("slow")) for _ in range(5)]
        await eventually(lambda: pool.endpoints.in_flight(0) == 5)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert (pool.endpoints.in_flight(0), pool.endpoints.ejected_for(0)) == (0, None)


async def test_a_stream_whose_client_has_left_by_then_gives_its_replica_back(pair: tuple[Server, Server]) -> None:
    """Also when nobody has begun to read it."""
    body = orjson.dumps({"case": "stream", "count": 100})
    state = {"body": body, "timings": {}, "trace": RequestTrace(), "held": BufferSemaphore(1_000_000).lease()}
    scope = {"type": "http", "method": "POST", "path": PATH, "headers": [], "state": state}

    async def staying() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def left() -> Message:
        return {"type": "http.disconnect"}

    async def take_nothing(message: Message) -> None:
        await staying()

    async with watched(pair[0].url) as (pool, _):
        turns = FairConcurrencyLimiter(1, 0, pool.metrics)
        async with aclosing(HttpClient(2.0)) as connections:
            response = await relay(
                scope, staying, Upstream("llm", connections, pool, turns, {}, UpstreamTimeouts(60, 60, 60))
            )
            with pytest.raises(asyncio.QueueFull):
                await turns.acquire("", RequestTrace(), 0.0)
            assert pool.endpoints.in_flight(0) == 1
            with pytest.raises(ClientDisconnected):
                await response(scope, left, take_nothing)
            (await turns.acquire("", RequestTrace(), 0.0)).release()
            assert pool.endpoints.in_flight(0) == 0


async def test_a_broken_answer_is_forgotten_with_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever failed on its way keeps nothing of it until the garbage collector comes by."""
    replies: list[weakref.ref[UpstreamResponse]] = []
    begun = UpstreamResponse.__init__

    def remember(reply: UpstreamResponse, *parts: object) -> None:
        replies.append(weakref.ref(reply))
        begun(reply, *parts)  # type: ignore[arg-type]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + b"x" * 200_000)
        writer.close()

    async def staying() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(UpstreamResponse, "__init__", remember)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        pool = LoadBalancer("llm", [url, url], UpstreamMetrics(CollectorRegistry()).of("llm"))
        room = BufferSemaphore(1_000_000)
        async with aclosing(HttpClient(2.0)) as connections:
            upstream = Upstream(
                "llm", connections, pool, FairConcurrencyLimiter(9, 9, pool.metrics), {}, UpstreamTimeouts(60, 60, 60)
            )
            gc.collect()
            gc.disable()
            try:
                held = room.lease()
                state = {"body": b"{}", "timings": {}, "trace": RequestTrace(), "held": held}
                scope = {"type": "http", "method": "POST", "path": PATH, "headers": [], "state": state}
                with pytest.raises(BadUpstream):
                    await relay(scope, staying, upstream)
                held.close()
                assert len(replies) > 1
                assert [one() for one in replies] == [None] * len(replies)
                assert room.used_bytes == 0
            finally:
                gc.enable()
