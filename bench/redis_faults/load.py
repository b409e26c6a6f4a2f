"""Sends requests at a constant rate during all phases, and polls readiness."""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp

from bench import texts, weights
from bench.redis_faults.llm import MODEL

KINDS = ("sentiment", "chat", "stream")
"""Kinds of requests, used in turn."""
KNOWN_TEXTS = 60
"""Number of texts that are repeated."""
REPEATED_SHARE = 0.5
"""Share of requests about repeated texts; the others are about new ones."""
TIMEOUT_SECONDS = 30.0
"""Timeout of a request; then it has failed."""
POLL_SECONDS = 0.05
"""Time between two polls of readiness."""


@dataclass(frozen=True)
class RequestResult:
    """The result of one request."""

    ended: float
    """Clock at its end."""
    latency_ms: float
    """Measured from when it was due, so that a stall counts for all requests that it delays."""
    failure: str | None
    """Why there was no successful response; None: there was one."""
    hit: bool
    """Whether it was answered from the cache."""


@dataclass(frozen=True)
class ReadinessSample:
    """Readiness at one time."""

    at: float
    """Clock at the response."""
    status: str
    """`ok`, `degraded`, `down`, or `silent`."""


@dataclass(frozen=True)
class PreparedRequest:
    """A request that is ready to be sent."""

    kind: str
    path: str
    body: bytes


def requests(count: int, seed: str) -> Iterator[PreparedRequest]:
    """Prepare requests, of which a share of `REPEATED_SHARE` is about repeated texts.

    Args:
        count: number of requests.
        seed: seed of the texts.

    Yields:
        The requests.
    """
    rng = random.Random(seed)
    reviews = weights.reviews()
    known = texts.make(reviews, KNOWN_TEXTS, seed=f"{seed}, known")
    new = iter(texts.make(reviews, count, seed=f"{seed}, new"))
    for number in range(count):
        text = rng.choice(known) if rng.random() < REPEATED_SHARE else next(new)
        yield request(KINDS[number % len(KINDS)], text)


def request(kind: str, text: str) -> PreparedRequest:
    """Prepare a request of a kind about a text."""
    if kind == "sentiment":
        return PreparedRequest(kind, "/v1/sentiment", json.dumps({"input": text}).encode())
    chat = {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0}
    return PreparedRequest(kind, "/v1/chat/completions", json.dumps({**chat, "stream": kind == "stream"}).encode())


async def send_request(session: aiohttp.ClientSession, url: str, made: PreparedRequest, due: float) -> RequestResult:
    """Send a request. Failures are part of the result and are not raised."""
    failure, hit = None, False
    try:
        async with session.post(url + made.path, data=made.body) as response:
            body = await response.read()
            hit = response.headers.get("x-cache") == "hit"
        if response.status != 200:
            failure = str(response.status)
        elif made.kind == "stream" and b"data: [DONE]" not in body:
            failure = "cut off"
    except (aiohttp.ClientError, TimeoutError) as error:
        failure = type(error).__name__
    now = time.perf_counter()
    return RequestResult(now, (now - due) * 1000, failure, hit)


async def send(
    session: aiohttp.ClientSession, url: str, supply: Iterator[PreparedRequest], rate: float, stop: asyncio.Event
) -> list[RequestResult]:
    """Run open-loop load until `stop` is set, and wait for all responses.

    Args:
        session: the HTTP client.
        url: the server.
        supply: the requests.
        rate: requests per second.
        stop: ends the load.

    Returns:
        All results, in the order of the requests.
    """
    started = time.perf_counter()
    under_way: list[asyncio.Task[RequestResult]] = []
    for number, made in enumerate(supply):
        if stop.is_set():
            break
        due = started + number / rate
        await asyncio.sleep(due - time.perf_counter())
        under_way.append(asyncio.create_task(send_request(session, url, made, due)))
    return list(await asyncio.gather(*under_way))


async def poll_readiness(
    session: aiohttp.ClientSession, urls: list[str], stop: asyncio.Event
) -> list[list[ReadinessSample]]:
    """Poll the readiness of each service until `stop` is set. Returns the samples of each."""

    async def one(url: str) -> list[ReadinessSample]:
        looks: list[ReadinessSample] = []
        while not stop.is_set():
            said = await status(session, url)
            looks.append(ReadinessSample(time.perf_counter(), said))
            await asyncio.sleep(POLL_SECONDS)
        return looks

    return list(await asyncio.gather(*(one(url) for url in urls)))


async def status(session: aiohttp.ClientSession, url: str) -> str:
    """Read the readiness of a service: its status, or `silent` without a response."""
    try:
        async with session.get(f"{url}/health/ready") as response:
            return str((await response.json())["status"])
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return "silent"
