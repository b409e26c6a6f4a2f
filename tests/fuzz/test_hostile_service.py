"""A service that says whatever it likes, and a gateway that nobody must notice it by.

Each request has a right answer or a 502, 503 or 504 in the one error shape, in time; none has the answer to another;
and requests to a service that is well are answered all the while. `FUZZ_SECONDS` is how long, `FUZZ_SEED` makes a
run again.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp

from tests.fuzz import hostile
from tests.support import Server, free_port, serving

SECONDS = float(os.environ.get("FUZZ_SECONDS", "8"))
SEED = int(os.environ.get("FUZZ_SEED", str(time.time_ns())))
AT_ONCE = 8
ALLOWED = {200, 204, 304, 400, 404, 429, 500, 502, 503, 504}
"""What a client may get: what the service may say, and what the gateway says of it."""
ANSWER_SECONDS = 15.0


class HostileService:
    """Two ports: one is hostile, the other one echoes the nonce of the request."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.said = b""

    async def hostile(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One answer after the other, some of them late, slow or without end."""
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while True:
                path, _ = await request(reader)
                if path == b"/health/ready":
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    await writer.drain()
                    continue
                await self._speak(writer)
                if self.dice.random() < 0.5:
                    break
        with suppress(OSError):
            writer.close()

    async def _speak(self, writer: asyncio.StreamWriter) -> None:
        if self.dice.random() < 0.1:
            begin, unit = self.dice.choice(hostile.FLOODS)
            writer.write(begin)
            for _ in range(2000):
                writer.write(unit)
                await writer.drain()
            return
        self.said = said = hostile.hostile_response(self.dice)
        step = self.dice.choice((len(said) or 1, len(said) or 1, 7, 60))
        for begin in range(0, min(len(said), 20 * step), step):
            writer.write(said[begin : begin + step])
            await writer.drain()
            if step < len(said):
                await asyncio.sleep(0.002)
        writer.write(said[20 * step :])
        await writer.drain()
        if self.dice.random() < 0.3:
            await asyncio.sleep(0.02)
            writer.write(hostile.STRAY_RESPONSE)
            await writer.drain()

    async def well(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What it is sent comes back."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                _, body = await request(reader)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
                writer.write(b"content-length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
        with suppress(OSError):
            writer.close()


async def request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The path and the body of the next one."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head.split(b" ", 2)[1], await reader.readexactly(int(lengths[0]) if lengths else 0)


@asynccontextmanager
async def scene(service: HostileService) -> AsyncIterator[Server]:
    """A gateway whose LLM service is hostile and whose encoders are well."""
    async with (
        await asyncio.start_server(service.hostile, "127.0.0.1", 0, limit=2**22) as bad,
        await asyncio.start_server(service.well, "127.0.0.1", 0, limit=2**22) as good,
    ):
        urls = [f"http://127.0.0.1:{each.sockets[0].getsockname()[1]}" for each in (bad, good)]
        env = {"LLM_URL": urls[0], "SENTIMENT_URL": urls[1], "EMBEDDING_URL": urls[1], "REVIEW_URL": urls[1]}
        env |= {"UPSTREAM_READ_SECONDS": "1", "UPSTREAM_TOTAL_SECONDS": "3", "REDIS_PORT": str(free_port())}
        context = serving("gateway", port_variable="GATEWAY_PORT", env=env)
        gateway = await asyncio.to_thread(context.__enter__)
        try:
            yield gateway
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)


async def test_no_answer_of_a_hostile_service_does_harm() -> None:
    """Structured and random bytes, cut and slow, with answers behind that nobody asked for."""
    service = HostileService(SEED)
    ends, count = time.monotonic() + SECONDS, 0

    async def ask(http: aiohttp.ClientSession, gateway: Server, number: int) -> None:
        nonlocal count
        while time.monotonic() < ends:
            nonce = f"{number}-{count}"
            body = {"nonce": nonce, "stream": count % 3 == 0}
            try:
                async with http.post(f"{gateway.url}/v1/chat/completions", json=body) as answer:
                    status, kind, said = answer.status, answer.content_type, await answer.read()
            except aiohttp.ClientPayloadError:
                status, kind, said = 200, "", b""  # Broken off in the middle, as the service did.
            count += 1
            assert status in ALLOWED, (SEED, status, service.said)
            assert said != hostile.STRAY_BODY, (SEED, service.said)
            if status >= 400:
                assert set(json.loads(said)["error"]) == {"message", "type", "param", "code"}, (SEED, said)
                assert kind == "application/json"
            async with http.post(f"{gateway.url}/v1/sentiment", json={"nonce": nonce}) as answer:
                assert (answer.status, await answer.json()) == (200, {"nonce": nonce}), (SEED, service.said)

    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    async with scene(service) as gateway, aiohttp.ClientSession(timeout=timeout) as http:
        async with asyncio.TaskGroup() as clients:
            for number in range(AT_ONCE):
                clients.create_task(ask(http, gateway, number))
        assert count > AT_ONCE, "nothing was asked"
        log = gateway.log()
        assert "Traceback" not in log, (SEED, log[-4000:])
    print(f"{count} requests, seed {SEED}")
