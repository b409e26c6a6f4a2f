"""Load over `bench.http_client`: clients that take turns, and requests that come at their own pace."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator

from bench.http_client import HttpLoadClient, HttpResponse
from bench.load import PAUSE_AFTER_ERROR_SECONDS, LatencyTally

TIMEOUT_SECONDS = 120.0
"""Longest wait for one answer; who takes longer is counted as an error."""
OnResponse = Callable[[HttpResponse], None]
"""Gets every good answer."""


def ignore_response(_: HttpResponse) -> None:
    """Notes nothing."""


def error_kind(answer: HttpResponse | OSError) -> str:
    """What an error is counted as."""
    return str(answer.status) if isinstance(answer, HttpResponse) else type(answer).__name__


async def send(client: HttpLoadClient, request: bytes) -> HttpResponse | OSError:
    """One answer, or why there is none."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await client.send(request)
    except OSError as error:
        return error


async def closed_loop(
    url: str, requests: Iterator[bytes], *, clients: int, seconds: float, note: OnResponse = ignore_response
) -> tuple[LatencyTally, float]:
    """Each client sends its next request when its last is answered, until time or `requests` end.

    Returns:
        What was answered, and the seconds from the first request to the last answer.
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
    """Send `rate` requests a second whoever is still waiting. A latency runs from when its request was due, so that
    a server that stalls is not forgiven the requests that it held back."""
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
