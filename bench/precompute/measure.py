"""Measures live load with a working and an idle worker, precomputed responses, and their renewal after a review."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench import texts, weights
from bench.clients import HttpLoadClient, Tally, closed_loop, get_request, json_request, open_loop
from bench.command import MODELS
from bench.measurements import Figures, Measurement
from bench.servers import ServerFailed, Servers, redis

PATHS = {"sentiment": "/v1/sentiment", "embedding": "/v1/embeddings", "search": "/v1/reviews/search"}
"""Kinds of live requests."""
KNOWN_SEARCHES = 50
"""Number of repeated searches, which are precomputed: the worker's default."""
ANSWERS = ("sentiment", "summary", "strengths")
"""Precomputed responses about a restaurant."""


def live(kind: str, count: int, seed: str) -> list[bytes]:
    """Prepare `count` requests of a kind about new texts."""
    field = "query" if kind == "search" else "input"
    made = texts.make(weights.reviews(), count, seed=f"{seed}, {kind}")
    return [json_request(PATHS[kind], {field: text}) for text in made]


def edits(sample: list[dict[str, Any]], count: int, seed: str) -> list[bytes]:
    """Prepare `count` requests, each of which gives a stored review another text."""
    rng = random.Random(seed)
    made = texts.make(weights.reviews(), count, seed=f"{seed}, edits")
    return [json_request("/v1/reviews", {**rng.choice(sample), "text": text}) for text in made]


def popular(restaurants: list[str]) -> list[bytes]:
    """Prepare the requests that are precomputed: all responses about the restaurants, and the repeated searches."""
    folders = [f"/v1/restaurants/{quote(restaurant, safe='')}" for restaurant in restaurants]
    about = [get_request(f"{folder}/{what}") for folder in folders for what in ANSWERS]
    return [*about, *live("search", KNOWN_SEARCHES, "known")]


COMPUTED_RESPONSES_METRIC = "onecard_precompute_job_seconds_count"
"""The worker's counter of finished refresh jobs."""
EDITS_PER_SECOND = 0.5
"""Changed reviews during the live load. Each invalidates the responses of its restaurant and all searches."""
READY_RATE = 50.0
"""Requests per second for precomputed responses."""
ASK_SECONDS = 3.0
"""Time between two requests for a round while the worker should work. A running round continues."""
POLL_SECONDS = 0.05
ROUND_TIMEOUT_SECONDS = 120.0
"""Timeout of one round."""
REQUESTS_EACH = 3
"""Requests that make each restaurant or search popular."""

Reviews = list[dict[str, Any]]


def start(servers: Servers, store: Path) -> None:
    """Start Redis, a canned LLM, encoders on the stand-ins, reviews, worker (without its schedule) and gateway."""
    cache = {"REDIS_PORT": str(servers.start(redis()).port)}
    servers.start_canned_llm()
    for kind in ("sentiment", "embedding"):
        servers.start_service(kind, {"MODEL_CACHE_PATH": str(MODELS), "OMP_NUM_THREADS": "1", **cache})
    for kind in ("review", "worker", "gateway"):
        servers.start_service(kind, {"REVIEW_STORE": str(store), **cache})


async def status(client: HttpLoadClient) -> dict[str, Any]:
    """Read the status of the worker's round."""
    found: dict[str, Any] = json.loads((await client.send(get_request("/v1/precompute/status"))).body)
    return found


async def run_round(url: str) -> float:
    """Request a round from the worker and wait until it has ended. Returns its duration in seconds."""
    async with HttpLoadClient(url) as client:
        before = (await status(client))["started_at"]
        if before is not None:  # Rounds are distinguished by the second of their start.
            await asyncio.sleep(max(0.0, before + 1.1 - time.time()))
        began = time.perf_counter()
        await client.send(json_request("/v1/precompute", {}))
        while time.perf_counter() < began + ROUND_TIMEOUT_SECONDS:
            found = await status(client)
            if found["started_at"] != before and found["state"] != "running":
                return time.perf_counter() - began
            await asyncio.sleep(POLL_SECONDS)
    raise ServerFailed("the worker does not come to the end of a round")


@asynccontextmanager
async def rounds_running(url: str) -> AsyncIterator[None]:
    """Keep rounds running inside the block, and wait for the last one at its end."""

    async def ask_on() -> None:
        async with HttpLoadClient(url) as client:
            while True:
                await client.send(json_request("/v1/precompute", {}))
                await asyncio.sleep(ASK_SECONDS)

    asking = asyncio.create_task(ask_on())
    try:
        yield
    finally:
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        await run_round(url)


async def fill(url: str, sample: Reviews, restaurants: list[str]) -> None:
    """Store the sample reviews, make restaurants and searches popular, and run a round."""
    async with HttpLoadClient(url) as client:
        await client.send(json_request("/v1/reviews", sample))
    for _ in range(REQUESTS_EACH):
        await closed_loop(url, iter(popular(restaurants)), clients=2, seconds=120)
    await run_round(url)


async def load(
    url: str, sample: Reviews, seed: str, rate: float, seconds: float, edit_rate: float = EDITS_PER_SECOND
) -> dict[str, Tally]:
    """Send live requests of all kinds, `rate` a second together, and change reviews. Returns a tally for each kind."""
    each = rate / len(PATHS)
    supplies = {kind: (live(kind, int(each * seconds), seed), each) for kind in PATHS}
    supplies["edit"] = edits(sample, int(edit_rate * seconds), seed), edit_rate

    async def one(place: int, supply: list[bytes], a_second: float) -> Tally:
        await asyncio.sleep(place / rate)  # Spreads the kinds evenly.
        return await open_loop(url, supply, rate=a_second)

    tallies = await asyncio.gather(*(one(place, *supply) for place, supply in enumerate(supplies.values())))
    return dict(zip(supplies, tallies, strict=True))


async def phase(
    servers: Servers, sample: Reviews, name: str, number: int, rate: float, seconds: float
) -> list[Measurement]:
    """Measure one phase with the worker `working` or `idle`: all live requests together, then each kind."""
    url, worker = servers.of("gateway").url, servers.of("worker")
    before = worker.metric(COMPUTED_RESPONSES_METRIC)

    async def loaded() -> tuple[dict[str, Tally], float]:
        tallies = await load(url, sample, f"round {number}, {name}", rate, seconds)
        return tallies, worker.metric(COMPUTED_RESPONSES_METRIC) - before

    if name == "working":
        async with rounds_running(url):
            tallies, computed = await loaded()
    else:
        tallies, computed = await loaded()
    all_kinds = Tally(answers=[answer for kind in PATHS for answer in tallies[kind].answers])
    together = {**all_kinds.figures(50, 95, 99), "computed_per_second": computed / seconds}
    kinds = [Measurement(name, kind, number, tally.figures(50, 95, 99)) for kind, tally in tallies.items()]
    return [Measurement(name, "all", number, together), *kinds]


async def measure_ready(url: str, restaurants: list[str], seconds: float) -> Figures:
    """Measure the latency of precomputed responses in an open loop over all of them."""
    await run_round(url)
    again = itertools.cycle(popular(restaurants))
    tally = await open_loop(url, itertools.islice(again, int(READY_RATE * seconds)), rate=READY_RATE)
    return {**tally.figures(50, 95, 99), "share_ready": tally.share("hit")}


async def measure_renewal(url: str, review: dict[str, Any], number: int) -> dict[str, Any]:
    """Add a copy of a review, run a round, and see whether what is precomputed of its restaurant counts it."""
    added = {**review, "review_id": f"added-{number}"}
    about = f"/v1/restaurants/{review['restaurant_id']}"
    async with HttpLoadClient(url) as client:
        before = json.loads((await client.send(get_request(f"{about}/sentiment"))).body)["total_count"]
        await client.send(json_request("/v1/reviews", added))
        seconds = await run_round(url)
        answers = {what: await client.send(get_request(f"{about}/{what}")) for what in ANSWERS}
    return {
        "seconds": round(seconds, 3),
        "ready": all(answer.headers.get("x-cache") == "hit" for answer in answers.values()),
        "counted": json.loads(answers["sentiment"].body)["total_count"] == before + 1,
        "largest_age_seconds": max(int(answer.headers.get("age", "-1")) for answer in answers.values()),
    }
