"""Prepares a phase for its day, and replays the parts of the measurement against it."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from bench.clients import closed_loop, error_kind, send
from bench.http_client import HttpLoadClient, HttpResponse, json_request
from bench.load import PAUSE_AFTER_ERROR_SECONDS, LatencyTally
from bench.precompute.measure import run_round
from bench.servers import ServerFailed
from bench.stats import percentile, ratio
from bench.strategy import traffic
from bench.strategy.phases import RunningPhase
from bench.strategy.traffic import MIX, Ask, Cell

WARM_UP = Cell("warm-up", MIX, repeats=False, clients=8)
VISITS = 3
"""Requests of the day before for each restaurant and search that is to be popular."""
POPULAR = {"restaurant": 20, "search": 50}
"""How many the worker keeps ready: its defaults."""
FLUSH_SECONDS = 1.5
"""Longer than the review service collects visits before it sends them to Redis."""

Figures = dict[str, float | None]


async def prepare(running: RunningPhase, samples: Sequence[str]) -> float:
    """Store reviews; where answers are precomputed, make those popular that the day asks for most, and run a round.

    Only precomputing may know the restaurants of the day: the other phases store other reviews, since storing one
    leaves its results in the encoders' caches.

    Args:
        running: the phase.
        samples: reviews that texts are made of.

    Returns:
        The seconds it took.

    Raises:
        ServerFailed: the reviews were not stored, or the round does not end.
    """
    started, phase = time.perf_counter(), running.phase
    if phase.ours:
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
    async with HttpLoadClient(running.urls["review"]) as client:
        answer = await send(client, json_request("/v1/reviews", reviews, {}))
    if not isinstance(answer, HttpResponse) or answer.status != 200:
        raise ServerFailed(f"the reviews were not stored: {error_kind(answer)}")


async def replay(running: RunningPhase, cell: Cell, samples: Sequence[str], seconds: float) -> Figures:
    """Replay a cell in a closed loop, from its first request on.

    Args:
        running: the phase.
        cell: what is asked, and from how many clients.
        samples: reviews that texts are made of.
        seconds: how long new requests are sent.

    Returns:
        Requests, requests per second, latencies, those of cached answers, the share that no model computed
        (`saved_share`), texts that the encoders computed per request, how often requests were refused and came again
        as told, errors, and resident memory.
    """
    tally, hits, saved, refused, before = LatencyTally(), LatencyTally(), 0, 0, running.computed_texts()
    asks, started = cell.asks(samples), time.perf_counter()
    ready = running.phase.ready and cell.repeats

    async def one() -> None:
        nonlocal saved, refused
        clients = {url: HttpLoadClient(url) for url in running.urls.values()}
        while time.perf_counter() < started + seconds and (ask := next(asks, None)) is not None:
            service, request = traffic.request(ask, ready=ready)
            sent = time.perf_counter()
            answer = await send(clients[running.urls[service]], request)
            while isinstance(answer, HttpResponse) and "retry-after" in answer.headers:
                refused += 1
                await asyncio.sleep(float(answer.headers["retry-after"]))
                answer = await send(clients[running.urls[service]], request)
            if not isinstance(answer, HttpResponse) or answer.status != 200:
                tally.failed(error_kind(answer))
                await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)
                continue
            tally.succeeded(sent)
            state = answer.headers.get("x-cache")
            saved += state in ("hit", "coalesced")
            if state == "hit":
                hits.succeeded(sent)
        for client in clients.values():
            client.close()

    await asyncio.gather(*(one() for _ in range(cell.clients)))
    count, after = len(tally.latencies_ms), running.computed_texts()
    return {
        "requests": count,
        "per_second": ratio(count, tally.last - started),
        "p50_ms": percentile(tally.latencies_ms, 0.5),
        "p99_ms": percentile(tally.latencies_ms, 0.99),
        "hit_p50_ms": percentile(hits.latencies_ms, 0.5),
        "hit_p99_ms": percentile(hits.latencies_ms, 0.99),
        "saved_share": ratio(saved, count),
        "texts_per_request": None if before is None or after is None else ratio(after - before, count),
        "refused": refused,
        "errors": sum(tally.errors.values()),
        "resident_mb": running.resident_mb(),
    }
