"""Measures hits and misses, in open and closed loops, and a workload with and without the cache."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from bench import texts, weights
from bench.cache.services import CachedServices
from bench.cache.workload import request
from bench.clients import closed_loop, open_loop
from bench.http_client import HttpResponse
from bench.load import LatencyTally
from bench.rounds import rotated
from bench.stats import percentile, ratio

HIT_RATE = 100.0
"""Hits per second in the open loop."""
MISS_RATES = {"embedding": 20.0, "sentiment": 20.0, "chat": 100.0, "stream": 100.0}
"""Misses per second in the open loop. BERT-base on a small CPU cannot keep up with more; the canned LLM can."""
KNOWN_TEXTS = 100
"""Number of texts of the hits."""
CLIENTS = 32
MAX_PREPARED_PER_SECOND = {"embedding": 200, "sentiment": 200, "chat": 4_000, "stream": 4_000}
"""Requests prepared per second of misses in a closed loop. Faster services end it early."""

Figures = dict[str, float | None]


def new_text_requests(kind: str, count: int, seed: str) -> list[bytes]:
    """Prepare requests of a kind about new texts."""
    return [request(kind, text) for text in texts.make(weights.reviews(), count, seed=seed)]


class CacheStateCounter:
    """Counts responses by their header `x-cache`."""

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()

    def __call__(self, answer: HttpResponse) -> None:
        """Count a response."""
        self.states[answer.headers.get("x-cache", "none")] += 1

    def share(self, state: str) -> float | None:
        """Compute the share of a state in all responses, 0 to 1; None without responses."""
        return self.states[state] / self.states.total() if self.states else None


def figures_of(tally: LatencyTally, seen: CacheStateCounter, state: str) -> Figures:
    """Summarise latencies, errors, and the share of responses in the expected state."""
    return {
        "p50_ms": percentile(tally.latencies_ms, 0.5),
        "p99_ms": percentile(tally.latencies_ms, 0.99),
        "share_as_meant": seen.share(state),
        "errors": sum(tally.errors.values()),
    }


async def loops(url: str, one: Iterator[bytes], many: Iterator[bytes], seconds: float) -> Figures:
    """Run a closed loop of one client, then one of `CLIENTS`, each for half of `seconds`."""
    single, _ = await closed_loop(url, one, clients=1, seconds=seconds / 2)
    tally, took = await closed_loop(url, many, clients=CLIENTS, seconds=seconds / 2)
    return {"single_p50_ms": percentile(single.latencies_ms, 0.5), "per_second": ratio(len(tally.latencies_ms), took)}


async def hits(url: str, kind: str, seconds: float) -> Figures:
    """Measure hits: cached texts in an open loop, then in closed loops, each for `seconds`."""
    known = new_text_requests(kind, KNOWN_TEXTS, "known")
    await closed_loop(url, iter(known), clients=4, seconds=600)
    seen, again = CacheStateCounter(), itertools.cycle(known)
    tally = await open_loop(url, itertools.islice(again, int(HIT_RATE * seconds)), rate=HIT_RATE, note=seen)
    return {**figures_of(tally, seen, "hit"), **await loops(url, again, again, seconds)}


async def misses(url: str, kind: str, seconds: float, seed: str) -> Figures:
    """Measure misses: new texts, in the same loops as `hits`."""
    seen, rate, most = CacheStateCounter(), MISS_RATES[kind], int(MAX_PREPARED_PER_SECOND[kind] * seconds / 2)
    tally = await open_loop(url, new_text_requests(kind, int(rate * seconds), seed), rate=rate, note=seen)
    one, many = (iter(new_text_requests(kind, most, f"{seed}, {way}")) for way in ("one", "many"))
    return {**figures_of(tally, seen, "miss"), **await loops(url, one, many, seconds)}


async def block(stack: CachedServices, requests: Iterator[bytes]) -> dict[str, Any]:
    """Run one block of the workload. Returns its duration, computed texts, and responses by `x-cache`."""
    before, seen = stack.computed_texts(), CacheStateCounter()
    tally, took = await closed_loop(stack.gateway.url, requests, clients=CLIENTS, seconds=600, note=seen)
    return {
        "requests": len(tally.latencies_ms),
        "seconds": round(took, 3),
        "computed": stack.computed_texts() - before,
        "p50_ms": percentile(tally.latencies_ms, 0.5),
        "p99_ms": percentile(tally.latencies_ms, 0.99),
        "x_cache": dict(seen.states),
        "errors": tally.errors,
    }


async def workload(
    cached: CachedServices,
    uncached: CachedServices,
    draws: list[int],
    *,
    size: int,
    seconds: float,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Send blocks of requests to the services with and without the cache, in alternating order.

    Args:
        cached: the services with the cache.
        uncached: the services without it.
        draws: number of the text of each request.
        size: requests per block.
        seconds: how long new blocks are started.
        say: prints a line of progress.

    Returns:
        The figures of each block, `cached` and `uncached`.
    """
    reviews = texts.make(weights.reviews(), max(draws) + 1, seed="zipf")
    end, done = time.monotonic() + seconds, []
    for number, start in enumerate(range(0, len(draws), size)):
        if time.monotonic() > end:
            break
        pair = {"cached": cached, "uncached": uncached}
        made: dict[str, Any] = {}
        for name in rotated([*pair], number):
            requests = (request("embedding", reviews[draw]) for draw in draws[start : start + size])
            made[name] = await block(pair[name], requests)
        done.append(made)
        say(f"{start + size:,} requests: " + ", ".join(f"{name} {made[name]['seconds']:.1f} s" for name in pair))
    return done
