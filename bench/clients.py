"""Load over `bench.wire`: clients that take turns, and requests that come at their own pace."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator

from bench.load import PAUSE_AFTER_ERROR_SECONDS, Tally
from bench.wire import Answer, Client

LIMIT_SECONDS = 120.0
"""Longest wait for one answer; who takes longer is counted as an error."""
Note = Callable[[Answer], None]
"""Gets every good answer."""


def nothing(_: Answer) -> None:
    """Notes nothing."""


def reason(answer: Answer | OSError) -> str:
    """What an error is counted as."""
    return str(answer.status) if isinstance(answer, Answer) else type(answer).__name__


async def ask(client: Client, request: bytes) -> Answer | OSError:
    """One answer, or why there is none."""
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            return await client.ask(request)
    except OSError as error:
        return error


async def closed_loop(
    url: str, requests: Iterator[bytes], *, clients: int, seconds: float, note: Note = nothing
) -> tuple[Tally, float]:
    """Each client sends its next request when its last is answered, until time or `requests` end.

    Returns:
        What was answered, and the seconds from the first request to the last answer.
    """
    tally, started = Tally(), time.perf_counter()

    async def one() -> None:
        async with Client(url) as client:
            while time.perf_counter() < started + seconds and (request := next(requests, None)) is not None:
                sent = time.perf_counter()
                answer = await ask(client, request)
                if isinstance(answer, Answer) and answer.status == 200:
                    tally.answered(sent)
                    note(answer)
                else:
                    tally.failed(reason(answer))
                    await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)

    await asyncio.gather(*(one() for _ in range(clients)))
    return tally, max(0.0, tally.last - started)


async def open_loop(url: str, requests: Iterable[bytes], *, rate: float, note: Note = nothing) -> Tally:
    """Send `rate` requests a second whoever is still waiting. A latency runs from when its request was due, so that
    a server that stalls is not forgiven the requests that it held back."""
    tally, started = Tally(), time.perf_counter()
    idle: list[Client] = []

    async def one(request: bytes, due: float) -> None:
        client = idle.pop() if idle else Client(url)
        answer = await ask(client, request)
        idle.append(client)
        if isinstance(answer, Answer) and answer.status == 200:
            tally.answered(due)
            note(answer)
        else:
            tally.failed(reason(answer))

    async with asyncio.TaskGroup() as under_way:
        for number, request in enumerate(requests):
            due = started + number / rate
            await asyncio.sleep(due - time.perf_counter())
            under_way.create_task(one(request, due))
    for client in idle:
        client.close()
    return tally
