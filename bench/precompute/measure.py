"""Measures live load with a working and an idle worker, precomputed responses, and their renewal after a review."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from bench.cache.measure import CacheStateCounter
from bench.clients import open_loop
from bench.http_client import HttpLoadClient, HttpResponse, get_request, json_request
from bench.load import LatencyTally
from bench.measurements import Measurement
from bench.precompute import requests
from bench.precompute.services import PrecomputeServices
from bench.servers import ServerFailed
from bench.stats import percentile

EDITS_PER_SECOND = 0.5
"""Changed reviews during the live load. Each invalidates the responses of its restaurant and all searches."""
READY_RATE = 50.0
"""Requests per second for precomputed responses."""
ASK_SECONDS = 3.0
"""Time between two requests for a round while the worker should work. A running round continues."""
POLL_SECONDS = 0.05
ROUND_TIMEOUT_SECONDS = 120.0
"""Timeout of one round."""


async def status(client: HttpLoadClient) -> dict[str, Any]:
    """Read the status of the worker's round."""
    answer = await client.send(get_request("/v1/precompute/status"))
    found: dict[str, Any] = json.loads(answer.body)
    return found


async def run_round(url: str) -> float:
    """Request a round and wait until it has ended.

    Args:
        url: the gateway.

    Returns:
        Its duration in seconds.

    Raises:
        ServerFailed: it has not ended within `ROUND_TIMEOUT_SECONDS`.
    """
    async with HttpLoadClient(url) as client:
        before = (await status(client))["started_at"]
        if before is not None:
            await asyncio.sleep(
                max(0.0, before + 1.1 - time.time())
            )  # Rounds are distinguished by the second of their start.
        began = time.perf_counter()
        await client.send(json_request("/v1/precompute", {}, {}))
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
                await client.send(json_request("/v1/precompute", {}, {}))
                await asyncio.sleep(ASK_SECONDS)

    asking = asyncio.create_task(ask_on())
    try:
        yield
    finally:
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        await run_round(url)


async def load(
    stack: PrecomputeServices,
    sample: list[dict[str, Any]],
    seed: str,
    rate: float,
    seconds: float,
    edits: float = EDITS_PER_SECOND,
) -> dict[str, LatencyTally]:
    """Run live load of all kinds of requests, and change reviews meanwhile.

    Args:
        stack: the services.
        sample: the sample reviews.
        seed: seed of the texts.
        rate: requests per second, of all kinds together.
        seconds: how long.
        edits: changed reviews per second.

    Returns:
        Latencies and errors by kind, and of `edit`.
    """
    each = rate / len(requests.KINDS)
    supplies = {kind: (requests.live(kind, int(each * seconds), seed), each) for kind in requests.KINDS}
    supplies["edit"] = requests.edits(sample, int(edits * seconds), seed), edits

    async def one(place: int, supply: list[bytes], a_second: float) -> LatencyTally:
        await asyncio.sleep(place / rate)  # Spreads the kinds evenly.
        return await open_loop(stack.url, supply, rate=a_second)

    tallies = await asyncio.gather(*(one(place, *supply) for place, supply in enumerate(supplies.values())))
    return dict(zip(supplies, tallies, strict=True))


async def phase(
    stack: PrecomputeServices, sample: list[dict[str, Any]], name: str, number: int, rate: float, seconds: float
) -> list[Measurement]:
    """Measure one phase of one round.

    Args:
        stack: the services.
        sample: the sample reviews.
        name: what the worker does meanwhile: `working` or `idle`.
        number: number of the round.
        rate: requests per second.
        seconds: length of the phase.

    Returns:
        A measurement of all live requests, then one of each kind.
    """
    seed, before = f"round {number}, {name}", stack.computed_responses()
    if name == "working":
        async with rounds_running(stack.url):
            tallies = await load(stack, sample, seed, rate, seconds)
            computed = stack.computed_responses() - before
    else:
        tallies = await load(stack, sample, seed, rate, seconds)
        computed = stack.computed_responses() - before
    live = [tallies[kind] for kind in requests.KINDS]
    visits = [Measurement(name, kind, number, _figures([tally])) for kind, tally in tallies.items()]
    together = {**_figures(live), "computed_per_second": computed / seconds}
    return [Measurement(name, "all", number, together), *visits]


def _figures(tallies: list[LatencyTally]) -> dict[str, float | None]:
    latencies = list(itertools.chain.from_iterable(tally.latencies_ms for tally in tallies))
    shares = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
    return {
        **{name: percentile(latencies, share) for name, share in shares.items()},
        "requests": len(latencies),
        "errors": sum(sum(tally.errors.values()) for tally in tallies),
    }


async def measure_ready(stack: PrecomputeServices, restaurants: list[str], seconds: float) -> dict[str, float | None]:
    """Measure the latency of precomputed responses in an open loop over all of them."""
    await run_round(stack.url)
    again = itertools.cycle(requests.popular(restaurants))
    seen = CacheStateCounter()
    supply = itertools.islice(again, int(READY_RATE * seconds))
    tally = await open_loop(stack.url, supply, rate=READY_RATE, note=seen)
    return {**_figures([tally]), "share_ready": seen.share("hit")}


async def measure_renewal(stack: PrecomputeServices, review: dict[str, Any], number: int) -> dict[str, Any]:
    """Add a review, run a round, and check the responses about its restaurant.

    Args:
        stack: the services.
        review: the review to copy.
        number: makes the new review's id.

    Returns:
        Duration of the round in seconds, whether all responses were then precomputed (`ready`), whether they include
        the review (`counted`), and their largest age in seconds.
    """
    added = {**review, "review_id": f"added-{number}"}
    about = f"/v1/restaurants/{review['restaurant_id']}"
    async with HttpLoadClient(stack.url) as client:
        before = json.loads((await client.send(get_request(f"{about}/sentiment"))).body)["total_count"]
        await client.send(json_request("/v1/reviews", added, {}))
        seconds = await run_round(stack.url)
        answers = {what: await client.send(get_request(f"{about}/{what}")) for what in requests.ANSWERS}
    return {
        "seconds": round(seconds, 3),
        "ready": all(_state(answer) == "hit" for answer in answers.values()),
        "counted": json.loads(answers["sentiment"].body)["total_count"] == before + 1,
        "largest_age_seconds": max(int(answer.headers.get("age", "-1")) for answer in answers.values()),
    }


def _state(answer: HttpResponse) -> str:
    return answer.headers.get("x-cache", "none")
