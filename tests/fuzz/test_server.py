"""A real server under many connections of nonsense, in HTTP/1.1 and HTTP/2.

`FUZZ_SECONDS` is how long, `FUZZ_SEED` makes a run again.
"""

import asyncio
import os
import random
import re
import time
from collections import Counter
from contextlib import suppress

import httpx
import psutil

from tests.fuzz import requests
from tests.fuzz.mutate import split_into_packets
from tests.support import Server, serving

SECONDS = float(os.environ.get("FUZZ_SECONDS", "8"))
SEED = int(os.environ.get("FUZZ_SEED", str(time.time_ns())))
CONNECTIONS = 16
ENDS_SECONDS = 60.0
"""Far beyond the server's own limits, on a busy machine."""
GROWTH_BYTES = 100_000_000
KNOWN = {100, 200, 307, 400, 404, 405, 408, 413, 415, 421, 431}
LIMITS = {"HEADER_TIMEOUT_SECONDS": "2", "BODY_TIMEOUT_SECONDS": "2", "SEND_TIMEOUT_SECONDS": "2", "MAX_BODY_MB": "0.1"}
_STATUS = re.compile(rb"^HTTP/1\.1 (\d{3}) ", re.MULTILINE)


def test_a_server_survives_whatever_it_is_sent() -> None:
    """Each connection ends, each answer has a status that is meant, nothing is in the log, and the server lives on."""
    print(f"FUZZ_SEED={SEED}")
    with serving("tests.protocol.app", port_variable="PLAIN_PORT", env={**LIMITS, "LOG_LEVEL": "warning"}) as server:
        for _ in range(50):
            httpx.get(server.url + "/health/live")
        before = memory(server)
        print(dict(asyncio.run(storm(server, random.Random(SEED), SECONDS))))
        assert memory(server) - before < GROWTH_BYTES, "the server has grown"
        fault = re.search(r".*(Traceback|Fatal error|Exception)[^\n]{,3000}", server.log())
        assert fault is None, fault and fault[0]


def memory(server: Server) -> int:
    """Bytes in RAM."""
    size: int = psutil.Process(server.process.pid).memory_info().rss
    return size


async def storm(server: Server, chance: random.Random, seconds: float) -> Counter[str]:
    """Some connections at a time, until the time is over."""
    deadline, statuses = time.monotonic() + seconds, Counter[str]()

    async def attack(own: random.Random) -> None:
        while time.monotonic() < deadline:
            kind = own.choice(("http1", "http1", "http2", "bytes"))
            sent = own.randbytes(own.randrange(1, 2000)) if kind == "bytes" else getattr(requests, kind)(own)
            try:
                answer = await asyncio.wait_for(exchange(server.port, split_into_packets(own, sent)), ENDS_SECONDS)
            except TimeoutError:
                raise AssertionError(f"the connection does not end: {sent!r}") from None
            assert server.process.poll() is None, f"the server has ended: {sent!r}\n{server.log()[-3000:]}"
            found = {int(status) for status in _STATUS.findall(answer)} if kind == "http1" else set()
            assert found <= KNOWN, f"{found}: {sent!r}"
            statuses.update(map(str, found) if found else [kind])

    async def watch() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=ENDS_SECONDS) as http:
            while time.monotonic() < deadline:
                assert (await http.get("/health/live")).status_code == 200
                await asyncio.sleep(0.2)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CONNECTIONS):
            tasks.create_task(attack(random.Random(chance.random())))
        tasks.create_task(watch())
    return statuses


async def exchange(port: int, parts: list[bytes]) -> bytes:
    """What is answered; the client says that it is done, at once or a little later, and waits for the server to be."""
    received = b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(OSError):
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0)
        await writer.drain()
        await asyncio.sleep(0.2 if len(parts) == 2 else 0)
        writer.write_eof()
        while piece := await reader.read(65536):
            received += piece
    writer.close()
    return received
