"""What a gateway holds for those who read or send slowly is bounded in bytes."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from gateway.relay import WRITE_BYTES
from onecard.errors import Unavailable
from onecard.web import buffer_semaphore
from onecard.web.buffer_semaphore import SMALL_BYTES, BufferSemaphore, GrowingBuffer
from tests.gateway.client_load import eventually_polled, head_of, unread_client
from tests.gateway.gateway_scene import CHAT, stream_request
from tests.gateway.gateway_scene import scene as cached_scene
from tests.gateway.support import key, secret_of, write_keys
from tests.shared.cache.support import RedisProcess
from tests.support import KEY, Server, free_port, metric, serving

EMBEDDINGS, AWAY = "/v1/embeddings", "/v1/sentiment"
CALLERS = 60
LONG_BYTES = 31_000_000
"""2,048 vectors of 768 numbers, as JSON."""


class Long:
    """An encoder whose answers are long, unless the body says `shortly`.

    It says how much it has sent, and waits in the middle if it is told to.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.asked = 0
        self.ended = 0
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.breaks = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(lengths[0][15:]) if lengths else 0)
                if b"/health/ready" in head:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    continue
                if b"shortly" in body:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
                    continue
                self.asked += 1
                await self._answer(writer)
                self.ended += 1
                if self.breaks:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % LONG_BYTES)
        left = LONG_BYTES - (1000 if self.breaks else 0)
        while left:
            if left < LONG_BYTES // 2:
                await self.goes_on.wait()
            piece = min(left, 64_000)
            writer.write(b"x" * piece)
            left -= piece
            self.sent += piece
            await writer.drain()


@asynccontextmanager
async def scene(**env: str) -> AsyncIterator[tuple[Server, Long]]:
    """A gateway whose encoder gives long answers."""
    service = Long()
    async with await asyncio.start_server(service.serve, "127.0.0.1", 0, limit=2**22) as listening:
        url, nobody = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", f"http://127.0.0.1:{free_port()}"
        addresses = {"EMBEDDING_URL": url, "LLM_URL": nobody, "SENTIMENT_URL": nobody, "REVIEW_URL": nobody}
        context = serving("gateway", port_variable="GATEWAY_PORT", env={**addresses, "CACHE_ENABLED": "false", **env})
        gateway = await asyncio.to_thread(context.__enter__)
        try:
            yield gateway, service
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)


def memory(server: Server) -> int:
    """Bytes of it that are in RAM."""
    size: int = psutil.Process(server.process.pid).memory_info().rss
    return size


@pytest.mark.parametrize("buffer_mb", [64, 256])
async def test_many_long_answers_that_nobody_reads_stay_where_they_come_from(buffer_mb: int) -> None:
    """The memory stays within a fifth of what is allowed; whoever there is no room for hears of it."""
    body = {"input": ["국물이 진하고 직원이 친절해요"] * 2048}
    async with scene(BUFFER_MB=str(buffer_mb)) as (gateway, service):
        before = await asyncio.to_thread(memory, gateway)
        with ExitStack() as stack:
            for _ in range(CALLERS):
                stack.enter_context(unread_client(gateway, EMBEDDINGS, body))
            most, still, sent = 0, 0, -1
            while still < 15:  # For 3 s nothing more has been sent.
                await asyncio.sleep(0.2)
                most = max(most, memory(gateway))
                still = still + 1 if service.sent == sent else 0
                sent = service.sent
            assert most - before < 1.2 * buffer_mb * 1e6
            if buffer_mb == 256:
                assert service.asked == CALLERS
            else:
                await eventually_polled(lambda: metric(gateway, "onecard_buffers_refused_total") > 0)
        await eventually_polled(lambda: metric(gateway, "onecard_buffers_bytes") == 0)


async def test_a_cached_stream_that_nobody_reads_is_held_within_what_is_allowed(redis: RedisProcess) -> None:
    """All who read it slowly share its bytes, and keep nobody else from being answered."""
    body = stream_request(count=40, padded=90_000)
    with cached_scene(redis, BUFFER_MB="64") as own:
        await eventually_polled(lambda: own.post(body).headers["x-cache"] == "hit")
        before = most = memory(own.gateway)

        def are_answered() -> bool:
            nonlocal most
            most = max(most, memory(own.gateway))
            return own.metric("onecard_buffers_bytes") >= CALLERS * WRITE_BYTES

        with ExitStack() as stack:
            for _ in range(CALLERS):
                stack.enter_context(unread_client(own.gateway, CHAT, body))
            await eventually_polled(are_answered)
            assert most - before < 1.2 * 64e6
            assert own.post(stream_request(count=2, padded=400_000)).status_code == 200
            assert own.metric("onecard_buffers_refused_total") == 0
        await eventually_polled(lambda: own.metric("onecard_buffers_bytes") == 0)
        assert own.post(body).headers["x-cache"] == "hit"


async def test_a_long_answer_comes_as_it_comes_and_whole() -> None:
    """Its beginning is there while the service still speaks, and its length is told."""
    async with scene() as (gateway, service), httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
        service.goes_on.clear()
        async with client.stream("POST", EMBEDDINGS, json={"input": "a"}) as answer:
            assert answer.headers["content-length"] == str(LONG_BYTES)
            chunks = answer.aiter_raw()
            received = len(await anext(chunks))
            service.goes_on.set()
            async for chunk in chunks:
                received += len(chunk)
        assert received == LONG_BYTES


async def test_a_long_answer_that_breaks_off_is_seen_to() -> None:
    """Its connection ends before its announced length; the next request is answered."""
    async with scene() as (gateway, service), httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
        service.breaks = True
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(EMBEDDINGS, json={"input": "a"})
        service.breaks = False
        assert len((await client.post(EMBEDDINGS, json={"input": "a"})).content) == LONG_BYTES


async def test_a_place_at_a_service_is_kept_until_the_last_byte() -> None:
    """Else a service would work for more callers than it may, whose answers wait in the gateway."""
    async with (
        scene(UPSTREAM_CONCURRENCY="1", UPSTREAM_QUEUE="0") as (gateway, service),
        httpx.AsyncClient(base_url=gateway.url, timeout=30) as client,
    ):
        with unread_client(gateway, EMBEDDINGS, {"input": "a"}):
            await eventually_polled(lambda: service.asked == 1)
            assert (await client.post(EMBEDDINGS, json={"input": "a"})).status_code == 429
        await eventually_polled(
            lambda: metric(gateway, 'onecard_upstream_in_flight{replica="0",upstream="embedding"}') == 0
        )
        assert (await client.post(EMBEDDINGS, json={"input": "a"})).status_code == 200


@contextmanager
def stalled(gateway: Server, size: int, path: str = AWAY, key: str | None = None) -> Iterator[socket.socket]:
    """A client that has sent all of a body but its last byte."""
    head = head_of(path, size, key)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        sending = threading.Thread(target=_send, args=(connection, head.encode() + b" " * (size - 1)), daemon=True)
        sending.start()
        yield connection


def _send(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except OSError:
        return


async def test_bodies_that_there_is_no_room_for_are_held_back_and_then_refused() -> None:
    """With a 503 that says when to come again; bodies leave half of all room to answers."""
    async with (
        scene(BUFFER_MB="16") as (gateway, _),
        httpx.AsyncClient(base_url=gateway.url, timeout=30) as client,
    ):
        with ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(stalled(gateway, 1_900_000))
            await eventually_polled(lambda: metric(gateway, "onecard_buffers_bytes") > 5_000_000)
            began = time.monotonic()
            refused = await client.post(AWAY, content=json.dumps({"input": "a" * 1_000_000}))
            assert (refused.status_code, refused.json()["error"]["type"]) == (503, "server_error")
            assert int(refused.headers["retry-after"]) >= 1
            assert time.monotonic() - began > 1
            assert metric(gateway, "onecard_buffers_bytes") < 8_000_000
        await eventually_polled(lambda: metric(gateway, "onecard_buffers_bytes") == 0)
        answer = await client.post(AWAY, content=json.dumps({"input": "a" * 1_000_000}))
        assert answer.json()["error"]["message"].startswith("The sentiment service is down")


async def test_without_a_key_nobody_takes_up_room() -> None:
    """Health checks need no key and have no body: one that comes all the same is refused unread."""
    keyed = {"authorization": f"Bearer {KEY}"}
    async with (
        scene(BUFFER_MB="16", API_KEY=KEY) as (gateway, _),
        httpx.AsyncClient(base_url=gateway.url, timeout=30, headers=keyed) as client,
    ):
        with ExitStack() as stack:
            strangers = [stack.enter_context(stalled(gateway, 1_900_000, "/health/live")) for _ in range(5)]
            for stranger in strangers:
                assert (await asyncio.to_thread(stranger.recv, 12)) == b"HTTP/1.1 405"
            assert "onecard_buffers_bytes 0.0" in (await client.get("/metrics")).text.splitlines()
            answer = await client.post(AWAY, content=json.dumps({"input": "a" * 1_000_000}))
            assert answer.json()["error"]["message"].startswith("The sentiment service is down")


SHORTLY = {"input": "shortly, " + "x" * 100}


@asynccontextmanager
async def two_callers(folder: Path, **env: str) -> AsyncIterator[tuple[Server, httpx.AsyncClient]]:
    """A gateway with the keys `greedy` and `other`, and a client with the other key."""
    keys = folder / "keys.json"
    write_keys(keys, [key("greedy"), key("other")])
    headers = {"authorization": f"Bearer {secret_of('other')}"}
    async with (
        scene(BUFFER_MB="16", API_KEYS_FILE=str(keys), **env) as (gateway, _),
        httpx.AsyncClient(base_url=gateway.url, timeout=60, headers=headers) as client,
    ):
        yield gateway, client


def buffers(gateway: Server, name: str) -> float:
    """A metric of the buffers, asked for with a key."""
    text = httpx.get(f"{gateway.url}/metrics", headers={"authorization": f"Bearer {secret_of('other')}"}).text
    return float(next(line for line in text.splitlines() if line.startswith(f"onecard_buffers_{name} ")).split()[-1])


async def test_whoever_does_not_read_long_answers_leaves_room_to_others(tmp_path: Path) -> None:
    """For short answers whoever asks for them, and for long ones of other keys."""
    async with two_callers(tmp_path) as (gateway, client):
        with ExitStack() as stack:
            for _ in range(24):
                stack.enter_context(unread_client(gateway, EMBEDDINGS, {"input": "a"}, key=secret_of("greedy")))
            await eventually_polled(lambda: buffers(gateway, "refused_total") > 0)
            for name in ("other", "greedy"):
                headers = {"authorization": f"Bearer {secret_of(name)}"}
                answer = await client.post(EMBEDDINGS, json=SHORTLY, headers=headers)
                assert (name, answer.status_code) == (name, 200)
            assert len((await client.post(EMBEDDINGS, json={"input": "a"})).content) == LONG_BYTES
        await eventually_polled(lambda: buffers(gateway, "bytes") == 0)


async def test_whoever_does_not_finish_long_bodies_leaves_room_to_short_ones() -> None:
    """All that long bodies may take is taken; a short one comes in at once."""
    size = 1_999_991
    async with (
        scene(BUFFER_MB="16", BODY_TIMEOUT_SECONDS="60") as (gateway, _),
        httpx.AsyncClient(base_url=gateway.url, timeout=60) as client,
    ):
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(stalled(gateway, size))
            await eventually_polled(lambda: metric(gateway, "onecard_buffers_bytes") == 3 * (size - 1))
            assert (await client.post(EMBEDDINGS, json=SHORTLY)).status_code == 200
            assert (await client.post(EMBEDDINGS, json={"input": "a" * 200_000})).status_code == 503


async def test_a_key_that_does_not_finish_long_bodies_leaves_room_to_those_of_others(tmp_path: Path) -> None:
    """However it writes its key."""
    async with two_callers(tmp_path, BODY_TIMEOUT_SECONDS="60") as (gateway, client):
        with ExitStack() as stack:
            for number in range(5):
                secret = " " * number + secret_of("greedy")
                stack.enter_context(stalled(gateway, 1_900_000, EMBEDDINGS, secret))
            await eventually_polled(lambda: buffers(gateway, "refused_total") > 0)
            long = {"input": "shortly, " + "a" * 1_000_000}
            assert (await client.post(EMBEDDINGS, json=long)).status_code == 200


async def test_each_kind_leaves_room_to_what_is_shorter() -> None:
    """Long bodies to long answers, these to short bodies, and these to short answers."""
    room = BufferSemaphore(800)
    lease = room.lease()
    await lease.acquire(400, "body")
    waiting = [asyncio.create_task(room.lease().acquire(1, "body"))]
    await lease.acquire(200, "long answer")
    waiting.append(asyncio.create_task(room.lease().acquire(1, "long answer")))
    await lease.acquire(100, "small body")
    waiting.append(asyncio.create_task(room.lease().acquire(1, "small body")))
    await lease.acquire(100, "answer")
    await asyncio.sleep(0)
    assert [task.done() for task in waiting] == [False] * 3
    lease.close()
    await asyncio.gather(*waiting)


async def test_only_the_beginning_of_a_body_is_short() -> None:
    room = BufferSemaphore(4 * SMALL_BYTES)
    body = GrowingBuffer(room.lease(), "small body", "body")
    await body.grow(SMALL_BYTES - 1)
    await body.grow(SMALL_BYTES + 1)
    rest = asyncio.create_task(body.grow(1))
    await asyncio.sleep(0)
    assert (room.used_bytes, rest.done()) == (2 * SMALL_BYTES, False)
    await GrowingBuffer(room.lease(), "small body", "body").grow(SMALL_BYTES)
    rest.cancel()


async def test_a_caller_gets_no_more_than_it_leaves_to_the_others() -> None:
    """Its waiting requests keep nobody else's; those of nobody in particular may have all."""
    room = BufferSemaphore(800, min_share_bytes=0)
    greedy, other, nobody = room.lease("greedy"), room.lease("other"), room.lease()
    await greedy.acquire(300, "long answer")
    await nobody.acquire(200, "long answer")
    more = asyncio.create_task(greedy.acquire(150, "long answer"))
    await asyncio.sleep(0)
    await asyncio.wait_for(other.acquire(50, "long answer"), 1)
    await asyncio.wait_for(nobody.acquire(50, "long answer"), 1)
    assert (more.done(), room.used_bytes) == (False, 600)
    other.close()
    nobody.close()
    await asyncio.sleep(0)
    assert not more.done()
    unknown = room.lease()
    await unknown.acquire(10, "body")
    unknown.charge_to("greedy")
    greedy.close()
    await more
    unknown.close()
    assert room.used_bytes == 0


async def test_a_caller_may_hold_its_least_share_however_little_it_leaves() -> None:
    """As for one largest body on a gateway where nobody else is."""
    room = BufferSemaphore(800, min_share_bytes=300)
    greedy = room.lease("greedy")
    await greedy.acquire(300, "body")
    more = asyncio.create_task(greedy.acquire(1, "body"))
    await asyncio.sleep(0)
    assert not more.done()
    more.cancel()


async def test_a_caller_whose_requests_never_end_keeps_nobody_out() -> None:
    """The oldest comes first, whoever has more of them."""
    room, order = BufferSemaphore(100), list[str]()

    async def hold(caller: str) -> None:
        lease = room.lease(caller)
        await lease.acquire(100)
        order.append(caller)
        await asyncio.sleep(0.01)
        lease.close()

    first = room.lease("greedy")
    await first.acquire(100)
    tasks = [asyncio.create_task(hold(caller)) for caller in ("greedy", "greedy", "other", "greedy", "greedy")]
    await asyncio.sleep(0)
    first.close()
    await asyncio.gather(*tasks)
    assert order == ["greedy", "greedy", "other", "greedy", "greedy"]


async def test_bytes_that_turn_out_to_be_anothers_make_room_for_those_who_wait() -> None:
    room = BufferSemaphore(400, min_share_bytes=0)
    unknown, waiting = room.lease("key"), room.lease("key")
    await unknown.acquire(100, "body")
    more = asyncio.create_task(waiting.acquire(40, "body"))
    await asyncio.sleep(0)
    assert not more.done()
    unknown.charge_to("its name")
    await asyncio.wait_for(more, 1)


@pytest.mark.parametrize("waiting", [1, 2, 3])
async def test_a_lease_that_is_collected_while_another_is_granted(waiting: int) -> None:
    """The collector runs wherever something is made, and closes leases that nobody has any more."""
    room = BufferSemaphore(100)
    forgotten, first = room.lease(), room.lease()
    await forgotten.acquire(10)
    await first.acquire(90)
    tasks = [asyncio.create_task(room.lease().acquire(10)) for _ in range(waiting)]
    await asyncio.sleep(0)
    call_soon, loop = asyncio.get_running_loop().call_soon, asyncio.get_running_loop()

    def collecting(*args: Any, **named: Any) -> Any:
        forgotten.close()
        return call_soon(*args, **named)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "call_soon", collecting)
        first.close()
    await asyncio.wait_for(asyncio.gather(*tasks), 1)
    assert not any(room._waiters.values())


async def test_who_waits_for_room_gets_it_in_turn_and_answers_come_first() -> None:
    all_of_it = BufferSemaphore(100)
    first, second, third = (all_of_it.lease() for _ in range(3))
    await first.acquire(90)
    body = asyncio.ensure_future(second.acquire(40, "body"))
    answer = asyncio.ensure_future(third.acquire(60))
    await asyncio.sleep(0)
    assert not body.done()
    assert not answer.done()
    first.close()
    await answer
    await asyncio.sleep(0)
    assert (body.done(), all_of_it.used_bytes) == (False, 60)
    third.close()
    await body
    assert all_of_it.used_bytes == 40
    del second, body
    assert all_of_it.used_bytes == 0


async def test_who_waits_in_vain_or_leaves_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer_semaphore, "ACQUIRE_TIMEOUT_SECONDS", 0.05)
    refused: list[int] = []
    all_of_it = BufferSemaphore(100, lambda: refused.append(1))
    full, other = all_of_it.lease(), all_of_it.lease()
    await full.acquire(100)
    with pytest.raises(Unavailable):
        await other.acquire(1)
    leaving = asyncio.ensure_future(other.acquire(1))
    await asyncio.sleep(0)
    full.close()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (all_of_it.used_bytes, refused) == (0, [1])
    full = all_of_it.lease()
    await full.acquire(100)
    leaving = asyncio.ensure_future(other.acquire(1))
    await asyncio.sleep(0)
    leaving.cancel()
    full.close()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert all_of_it.used_bytes == 0
    other.close()
    await other.acquire(5)
    assert all_of_it.used_bytes == 0


async def test_who_leaves_lets_those_in_who_stood_behind() -> None:
    """The first in the line wanted much; those behind it fit in at once, and not only when somebody gives back."""
    room = BufferSemaphore(1000)
    held = room.lease()
    await held.acquire(900)
    large = asyncio.create_task(room.lease().acquire(500))
    await asyncio.sleep(0)
    small = asyncio.create_task(room.lease().acquire(50))
    await asyncio.sleep(0)
    assert not small.done()
    large.cancel()
    await asyncio.wait_for(small, 1)
    assert room.used_bytes >= 900
