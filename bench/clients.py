"""Closed-loop and open-loop load over `bench.http_client`."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator

from bench.http_client import HttpLoadClient, HttpResponse
from bench.load import PAUSE_AFTER_ERROR_SECONDS, LatencyTally

TIMEOUT_SECONDS = 120.0
"""Timeout of one request; then it counts as an error."""
OnResponse = Callable[[HttpResponse], None]
"""Callback for every successful response."""


def ignore_response(_: HttpResponse) -> None:
    """Do nothing with a response."""


def error_kind(answer: HttpResponse | OSError) -> str:
    """Name an error: its status, or the type of the exception."""
    return str(answer.status) if isinstance(answer, HttpResponse) else type(answer).__name__


async def send(client: HttpLoadClient, request: bytes) -> HttpResponse | OSError:
    """Send a request. Returns the response, or the exception if there is none."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await client.send(request)
    except OSError as error:
        return error


async def closed_loop(
    url: str, requests: Iterator[bytes], *, clients: int, seconds: float, note: OnResponse = ignore_response
) -> tuple[LatencyTally, float]:
    """Run closed-loop load: each client sends its next request when its last is answered.

    Args:
        url: the server.
        requests: what to send; the load ends when they do.
        clients: number of concurrent clients.
        seconds: how long new requests are sent.
        note: called with every successful response.

    Returns:
        Latencies and errors, and the seconds from the first request to the last response.
    """
    tally, started = LatencyTally(), time.perf_counter()

    async def one() -> None:
        async with HttpLoadClient(url) as client:
            while time.perf_counter() < started + seconds and (request := next(requests, None)) is not None:
                sent = time.perf_counter()
                answer = await send(client, request)
                if isinstance(answer, HttpResponse) and answer.status == 200:
                    tally.succeeded(sent)
                    note(answer)
                else:
                    tally.failed(error_kind(answer))
                    await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)

    await asyncio.gather(*(one() for _ in range(clients)))
    return tally, max(0.0, tally.last - started)


async def open_loop(
    url: str, requests: Iterable[bytes], *, rate: float, note: OnResponse = ignore_response
) -> LatencyTally:
    """Run open-loop load: requests start at a fixed rate, however many are still waiting.

    A latency is measured from the time when its request was due, so that a stall of the server counts for all requests
    that it delays (no coordinated omission).

    Args:
        url: the server.
        requests: what to send.
        rate: requests per second.
        note: called with every successful response.

    Returns:
        Latencies and errors.
    """
    tally, started = LatencyTally(), time.perf_counter()
    idle: list[HttpLoadClient] = []

    async def one(request: bytes, due: float) -> None:
        client = idle.pop() if idle else HttpLoadClient(url)
        answer = await send(client, request)
        idle.append(client)
        if isinstance(answer, HttpResponse) and answer.status == 200:
            tally.succeeded(due)
            note(answer)
        else:
            tally.failed(error_kind(answer))

    async with asyncio.TaskGroup() as under_way:
        for number, request in enumerate(requests):
            due = started + number / rate
            await asyncio.sleep(due - time.perf_counter())
            under_way.create_task(one(request, due))
    for client in idle:
        client.close()
    return tally
