"""Prepares a phase for its day, and replays the parts of the measurement against it."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from bench.clients import (
    PAUSE_AFTER_ERROR_SECONDS,
    HttpLoadClient,
    HttpResponse,
    Tally,
    closed_loop,
    exchange,
    json_request,
    status_failure,
)
from bench.measurements import Figures, percentiles, ratio
from bench.precompute.measure import run_round
from bench.servers import ServerFailed
from bench.strategy import traffic
from bench.strategy.phases import RunningPhase
from bench.strategy.traffic import MIX, Ask, Cell

WARM_UP = Cell("warm-up", MIX, repeats=False, clients=8)
VISITS = 3
"""Requests of the day before for each restaurant and search that is to be popular."""
POPULAR = {"restaurant": 20, "search": 50}
"""How many the worker keeps ready: its defaults."""
REFUSED = "refused"
FLUSH_SECONDS = 1.5
"""Longer than the review service collects visits before it sends them to Redis."""


async def prepare(running: RunningPhase, samples: Sequence[str]) -> float:
    """Store reviews and, where answers are precomputed, make the day's popular and run a round. Returns the seconds."""
    started, phase = time.perf_counter(), running.phase
    if phase.ours:
        # Only precomputing may know the restaurants of the day: storing a review leaves its results in the caches.
        reviews = traffic.stored(samples, traffic.DAY if phase.ready else "other")
        await _store(running, reviews)
        if phase.ready:
            subjects = [(kind, number) for kind, count in POPULAR.items() for number in range(count)]
            asks = [Ask(kind, n, traffic.texts_of(samples, traffic.DAY, kind, n)) for kind, n in subjects] * VISITS
            visits = iter([traffic.request(ask, ready=True)[1] for ask in asks])
            await closed_loop(running.urls["review"], visits, clients=4, seconds=60)
            await asyncio.sleep(FLUSH_SECONDS)
            await _store(running, [{**reviews[-1], "review_id": "late"}])  # The searches are stale now.
            await run_round(running.urls["review"])
    return time.perf_counter() - started


async def _store(running: RunningPhase, reviews: list[dict[str, Any]]) -> None:
    tally = Tally()
    async with HttpLoadClient(running.urls["review"]) as client:
        await exchange(client, json_request("/v1/reviews", reviews), tally, tally.started)
    if tally.errors:
        raise ServerFailed(f"the reviews were not stored: {tally.errors}")


def failure(answer: HttpResponse) -> str | None:
    """Tell refusals that come again from errors."""
    return REFUSED if "retry-after" in answer.headers else status_failure(answer)


async def ask_until_taken(client: HttpLoadClient, request: bytes, tally: Tally) -> None:
    """Send a request, and as often again as `Retry-After` says; its latency counts from the first time."""
    sent = time.perf_counter()
    told: list[float] = []

    def note(answer: HttpResponse) -> None:
        if "retry-after" in answer.headers:
            told.append(float(answer.headers["retry-after"]))

    while await exchange(client, request, tally, sent, failure, note) is None:
        await asyncio.sleep(told[-1] if told else PAUSE_AFTER_ERROR_SECONDS)
        if not told:
            break
        told.clear()


async def replay(running: RunningPhase, cell: Cell, samples: Sequence[str], seconds: float) -> Figures:
    """Replay a cell in a closed loop for `seconds`, from its first request on; `samples` are what texts are made of."""
    before, asks, tally = running.computed_texts(), cell.asks(samples), Tally()
    ready = running.phase.ready and cell.repeats

    async def one() -> None:
        clients = {url: HttpLoadClient(url) for url in running.urls.values()}
        while time.perf_counter() < tally.started + seconds and (ask := next(asks, None)) is not None:
            service, request = traffic.request(ask, ready=ready)
            await ask_until_taken(clients[running.urls[service]], request, tally)
        for client in clients.values():
            client.close()

    await asyncio.gather(*(one() for _ in range(cell.clients)))
    count, after, errors = len(tally.latencies_ms), running.computed_texts(), tally.errors
    cached = percentiles([answer.latency_ms for answer in tally.answers if answer.cache == "hit"], 50, 99)
    return {
        "requests": count,
        "per_second": ratio(count, tally.seconds),
        **percentiles(tally.latencies_ms, 50, 99),
        **{f"hit_{name}": value for name, value in cached.items()},
        "saved_share": ratio(tally.states["hit"] + tally.states["coalesced"], count),
        "texts_per_request": None if before is None or after is None else ratio(after - before, count),
        "refused": errors.pop(REFUSED, 0),
        "errors": sum(errors.values()),
        "resident_mb": running.resident_mb(),
    }
