"""`python -m bench.churn` (`make bench-churn`): the cache's memory tier under random puts and gets.

Values have the sizes of vectors, sentiments and chats. Far more are put than fit, and some expire. Expected: the
counted bytes never exceed the limit, and the process does not grow once the tier is full.
"""

import asyncio
import math
import os
import random
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from prometheus_client import CollectorRegistry

from bench import machine, memory
from bench.command import Out, benchmark, exit_if
from bench.tables import number, page, table
from onecard.cache.keys import CacheKind, Keyspace
from onecard.cache.memory_tier import MemoryTier
from onecard.cache.metrics import CacheMetrics
from onecard.cache.settings import CacheSettings
from onecard.cache.tiers import Cache

FULL_SECONDS = 600.0
CPU_SHARE = 0.3
"""Share of one core that the churn uses."""
BURST_SECONDS = 0.02
"""Length of the work between two pauses."""
SAMPLE_SECONDS = 1.0
WARM_UP_SECONDS = 60.0
"""Time after which the tier is full. Memory at this time is compared with memory at the end."""
DISTINCT = 60_000
"""Number of keys of each kind, with about 700 MB of values."""
PUT_SHARE = 0.5
"""Share of puts; the rest are gets."""
TTL_SECONDS = (1, 30, 3_600)
VECTOR_BYTES = 3_072
SENTIMENT_BYTES = 20
CHAT_BYTES = (200, 50_000)


def operations(seed: str) -> Iterator[tuple[CacheKind, bytes, bytes | None, int]]:
    """Draw endless operations, low keys more often: kind, key, value to put (None: get), and seconds to live."""
    rng = random.Random(seed)
    kinds: tuple[CacheKind, ...] = ("embedding", "sentiment", "chat")
    prefixes = {kind: Keyspace(kind, "bench/model", "r1", "0" * 16).prefix for kind in kinds}
    while True:
        kind = rng.choice(kinds)
        key = prefixes[kind] + b"%032x" % int(DISTINCT * rng.random() ** 2)
        value = rng.randbytes(size_of(kind, rng.random())) if rng.random() < PUT_SHARE else None
        yield kind, key, value, rng.choice(TTL_SECONDS)


def size_of(kind: CacheKind, share: float) -> int:
    """Draw the size of a value in bytes. `share` (0 to 1) is the quantile for chats, most of which are small."""
    if kind == "embedding":
        return VECTOR_BYTES
    if kind == "sentiment":
        return SENTIMENT_BYTES
    least, most = CHAT_BYTES
    return round(least * math.pow(most / least, share))


async def churn(bound: int, seconds: float) -> dict[str, Any]:
    """Put and get for a time in a tier of `bound` bytes. Returns samples of the memory and their summary."""
    tier = MemoryTier(bound, time.time)
    cache = Cache(tier, None, CacheMetrics(CollectorRegistry()), time.time)
    done = peak = 0
    samples: list[dict[str, float]] = []
    supply, started = operations("churn"), time.monotonic()
    while (now := time.monotonic() - started) < seconds:
        turn_ends = time.perf_counter() + BURST_SECONDS
        while time.perf_counter() < turn_ends:
            kind, key, value, ttl = next(supply)
            if value is None:
                await cache.get_many(kind, [key])
            else:
                cache.set_many(kind, [(key, value)], ttl)
                peak = max(peak, tier.size_bytes)
            done += 1
        if now >= len(samples) * SAMPLE_SECONDS:
            resident = memory.resident_bytes(os.getpid())
            samples.append({"second": round(now, 2), "counted_bytes": tier.size_bytes, "resident_bytes": resident})
        await asyncio.sleep(BURST_SECONDS * (1 / CPU_SHARE - 1))
    counted = {"bound_bytes": bound, "peak_counted_bytes": peak, "held": peak <= bound, "operations": done}
    return {**counted, **summary(samples), "samples": samples}


def summary(samples: list[dict[str, float]]) -> dict[str, Any]:
    """Summarise resident bytes: at the start, after the warm-up (or half of a shorter run), and at the end."""
    settled_at = min(WARM_UP_SECONDS, samples[-1]["second"] / 2)
    settled = next(one for one in samples if one["second"] >= settled_at)
    return {
        "seconds": samples[-1]["second"],
        "resident_bytes_start": samples[0]["resident_bytes"],
        "settled_second": settled["second"],
        "resident_bytes_settled": settled["resident_bytes"],
        "resident_bytes_end": samples[-1]["resident_bytes"],
        "resident_bytes_peak": max(one["resident_bytes"] for one in samples),
    }


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    made = document["churn"]
    sizes = {
        "bound": made["bound_bytes"],
        "most ever counted": made["peak_counted_bytes"],
        "resident at the beginning": made["resident_bytes_start"],
        f"resident after {made['settled_second']:.0f} s": made["resident_bytes_settled"],
        "resident at the end": made["resident_bytes_end"],
        "most resident": made["resident_bytes_peak"],
    }
    return page(
        "# The cache's tier in memory under churn",
        machine.line(document["machine"]),
        f"{made['operations']:,} puts and gets in {made['seconds']:.0f} s.",
        table([["", "MB"], *([name, number(size / 1e6, 2)] for name, size in sizes.items())]),
        "It stayed inside its bound." if made["held"] else "It passed its bound.",
    )


def main(
    seconds: Annotated[float, typer.Option(min=2, max=3_600, help="Length of the churn.")] = FULL_SECONDS,
    out: Out = None,
) -> None:
    """Churn the tier at its default limit and write churn.json and .md. Exit code 1 if it exceeded the limit."""
    bound = int(CacheSettings.model_fields["cache_memory_mb"].default * 1_000_000)
    with benchmark("churn", out, quick=seconds < FULL_SECONDS) as run:
        document = {"machine": run.head, "churn": asyncio.run(churn(bound, seconds))}
        run.write(document, as_markdown(document))
    exit_if([] if document["churn"]["held"] else ["its bound"])


if __name__ == "__main__":
    typer.run(main)
