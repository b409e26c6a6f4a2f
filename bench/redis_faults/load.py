"""Requests at a steady rate through all phases, and readiness beside them."""

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
"""Taken in turns."""
KNOWN_TEXTS = 60
"""Texts that are asked about again and again."""
REPEATED_SHARE = 0.5
"""Share of requests about them; the others are about texts that nobody has asked about."""
TIMEOUT_SECONDS = 30.0
"""Longest wait for an answer; one that takes longer has failed."""
POLL_SECONDS = 0.05
"""Between two looks at readiness."""


@dataclass(frozen=True)
class RequestResult:
    """One request."""

    ended: float
    """Clock at its end."""
    latency_ms: float
    """From when it was due, so that a stall is not forgiven the requests behind it."""
    failure: str | None
    """Why there was no good answer."""
    hit: bool
    """It was answered from the cache."""


@dataclass(frozen=True)
class ReadinessSample:
    """What readiness said."""

    at: float
    """Clock when it said so."""
    status: str
    """`ok`, `degraded`, `down`, or `silent`."""


@dataclass(frozen=True)
class PreparedRequest:
    """What is sent, before its clock starts."""

    kind: str
    path: str
    body: bytes


def requests(count: int, seed: str) -> Iterator[PreparedRequest]:
    """`count` requests, half of them about texts that were asked about before."""
    rng = random.Random(seed)
    reviews = weights.reviews()
    known = texts.make(reviews, KNOWN_TEXTS, seed=f"{seed}, known")
    new = iter(texts.make(reviews, count, seed=f"{seed}, new"))
    for number in range(count):
        text = rng.choice(known) if rng.random() < REPEATED_SHARE else next(new)
        yield request(KINDS[number % len(KINDS)], text)


def request(kind: str, text: str) -> PreparedRequest:
    """One request about one text."""
    if kind == "sentiment":
        return PreparedRequest(kind, "/v1/sentiment", json.dumps({"input": text}).encode())
    chat = {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0}
    return PreparedRequest(kind, "/v1/chat/completions", json.dumps({**chat, "stream": kind == "stream"}).encode())


async def send_request(session: aiohttp.ClientSession, url: str, made: PreparedRequest, due: float) -> RequestResult:
    """One request; never raises for a bad answer or none."""
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
    """Start `rate` requests a second, whoever is still waiting, until `stop` is set; the answers to all of them."""
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
    """What each service's readiness says, again and again until `stop` is set."""

    async def one(url: str) -> list[ReadinessSample]:
        looks: list[ReadinessSample] = []
        while not stop.is_set():
            said = await status(session, url)
            looks.append(ReadinessSample(time.perf_counter(), said))
            await asyncio.sleep(POLL_SECONDS)
        return looks

    return list(await asyncio.gather(*(one(url) for url in urls)))


async def status(session: aiohttp.ClientSession, url: str) -> str:
    """Of the whole service."""
    try:
        async with session.get(f"{url}/health/ready") as response:
            return str((await response.json())["status"])
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return "silent"
