"""`python -m bench.overload`: four times what the encoder can do, for a minute.

First the peak, from 32 clients in a closed loop; then new requests at four times that rate, whoever is still waiting;
then the peak once more, since machines drift.
What should hold: throughput stays near the peak, memory and queue stay bounded, nobody accepted is answered late, and
who is refused is told a time after which he is let in.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Annotated, Any

import aiohttp
import typer
import uvloop

from bench import encoders, machine, memory, texts, weights
from bench.cells import Cell, Load
from bench.contenders import CONTENDERS
from bench.load import body, drive
from bench.places import MODEL, RESULTS
from bench.servers import Server
from bench.stats import percentile

SAMPLE_SECONDS = 1.0
SETTLE_SECONDS = 20.0
"""Left out at the beginning: until the queue is full, more is accepted than answered."""
STEP_SECONDS = 0.02
"""Requests are started in steps of this length."""


@dataclass
class Seen:
    """What the clients saw."""

    started: float
    statuses: Counter[int] = field(default_factory=Counter)
    answered_at: list[float] = field(default_factory=list)
    """Seconds after the start."""
    waits: list[float] = field(default_factory=list)
    """Seconds of accepted requests."""
    refusals: list[float] = field(default_factory=list)
    """Seconds until a refusal was said."""
    retry_after: list[int] = field(default_factory=list)


async def one(session: aiohttp.ClientSession, url: str, data: bytes, seen: Seen) -> int:
    """One request; its status."""
    began = time.perf_counter()
    async with session.post(url, data=data) as response:
        await response.read()
    took = time.perf_counter() - began
    seen.statuses[response.status] += 1
    if response.status == 200:
        seen.answered_at.append(time.perf_counter() - seen.started)
        seen.waits.append(took)
    elif response.status == 429:
        seen.refusals.append(took)
        seen.retry_after.append(int(response.headers["retry-after"]))
    return response.status


async def flood(session: aiohttp.ClientSession, url: str, supply: Iterator[bytes], rate: float, seen: Seen) -> None:
    """Start requests at `rate` a second, until the supply ends; wait for all answers."""
    under_way: set[asyncio.Task[int]] = set()
    for sent, data in enumerate(supply):
        if (early := sent / rate - (time.perf_counter() - seen.started)) > STEP_SECONDS:
            await asyncio.sleep(early)
        task = asyncio.create_task(one(session, url, data, seen))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)


async def returns_in_time(session: aiohttp.ClientSession, url: str, supply: Iterator[bytes], rate: float) -> float:
    """Fill the queue until somebody is refused, come back when told to, and say which share is let in then."""
    seen = Seen(time.perf_counter())
    waiting = []
    for data in supply:
        waiting.append(asyncio.create_task(one(session, url, data, seen)))
        if seen.retry_after:
            break
        await asyncio.sleep(1 / rate)
    await asyncio.sleep(seen.retry_after[0])
    back = Seen(time.perf_counter())
    await asyncio.gather(*(one(session, url, next(supply), back) for _ in range(8)))
    await asyncio.gather(*waiting)
    return back.statuses[200] / 8


async def sample(session: aiohttp.ClientSession, server: Server, into: list[dict[str, float]]) -> None:
    """Once a second: the queue's tokens and the server's memory."""
    metrics = server.url.replace(server.contender.path, "/metrics")
    while True:
        async with session.get(metrics) as response:
            lines = (await response.text()).splitlines()
        waiting = sum(float(line.split()[-1]) for line in lines if line.startswith("onecard_queue_tokens{"))
        into.append({"queue_tokens": waiting, "rss_mb": memory.resident_bytes(server.pid) / 1e6})
        await asyncio.sleep(SAMPLE_SECONDS)


def supply_of(count: int, seed: str) -> Iterator[bytes]:
    """Requests of one new text each."""
    return iter([body([text], MODEL.name) for text in texts.make(weights.reviews(), count, seed=seed)])


async def measure(server: Server, seconds: float, factor: float) -> dict[str, Any]:
    """The whole run."""
    peak = await drive(Load(server.url, MODEL.name, Cell(1, 32), 15.0, 60.0, "peak"))
    rate = peak.texts_per_second * factor
    print(f"peak {peak.texts_per_second:.0f} texts/s; now {rate:.0f} requests/s for {seconds:g} s", flush=True)
    requests = supply_of(int(rate * seconds), "flood")
    timeout, connector = aiohttp.ClientTimeout(total=120), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers={"content-type": "application/json"}
    ) as session:
        samples: list[dict[str, float]] = []
        sampling = asyncio.create_task(sample(session, server, samples))
        seen = Seen(time.perf_counter())
        await flood(session, server.url, requests, rate, seen)
        sampling.cancel()
        after = await drive(Load(server.url, MODEL.name, Cell(1, 32), 15.0, 60.0, "peak after"))
        let_in = await returns_in_time(session, server.url, supply_of(int(rate * 30), "return"), rate / 2)
    during = sum(SETTLE_SECONDS <= at <= seconds for at in seen.answered_at) / (seconds - SETTLE_SECONDS)
    settled = [one["rss_mb"] for at, one in enumerate(samples) if at >= SETTLE_SECONDS]
    return {
        "peak_texts_per_second": [peak.texts_per_second, after.texts_per_second],
        "sent_per_second": rate,
        "seconds": seconds,
        "texts_per_second": during,
        "of_peak": during / ((peak.texts_per_second + after.texts_per_second) / 2),
        "statuses": {str(status): count for status, count in sorted(seen.statuses.items())},
        "accepted_p50_s": percentile(seen.waits, 0.5),
        "accepted_max_s": max(seen.waits),
        "refused_p50_ms": (percentile(seen.refusals, 0.5) or 0) * 1000,
        "retry_after_s": dict(sorted(Counter(seen.retry_after).items())),
        "let_in_after_retry_after": let_in,
        "rss_mb_every_10_s": [round(one["rss_mb"]) for one in samples[::10]],
        "queue_tokens_max": max(one["queue_tokens"] for one in samples),
        "rss_mb_settled": median(settled[:5]),
        "rss_mb_end": median(settled[-5:]),
    }


def main(
    seconds: Annotated[float, typer.Option(min=20, max=600, help="Length of the flood.")] = 60.0,
    factor: Annotated[float, typer.Option(min=1, max=20, help="Requests sent, in multiples of the peak.")] = 4.0,
) -> None:
    """Flood the embedding service and write bench/results/overload.json."""
    encoders.prepare([])
    with Server(CONTENDERS["onecard"]) as server:
        server.wait_ready()
        results = uvloop.run(measure(server, seconds, factor))
    head = machine.describe("python -m bench.overload " + " ".join(sys.argv[1:]))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "overload.json").write_text(json.dumps({**head, **results}, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    typer.run(main)
