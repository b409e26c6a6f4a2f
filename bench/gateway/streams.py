"""Sends many concurrent streams through the gateway and compares each with what the upstream sent."""

import asyncio
import time
from typing import Any

import uvloop

from bench.clients import error_kind, send
from bench.gateway.canned import events
from bench.gateway.requests import HEADERS, PATH, body
from bench.http_client import HttpLoadClient, HttpResponse, request_bytes
from bench.load import LatencyTally
from bench.memory import PeakMemory, resident_bytes
from bench.servers import ContenderServer
from bench.stats import percentile


async def drive(url: str, count: int, expected: bytes) -> tuple[list[HttpResponse], LatencyTally, float]:
    """Run all streams concurrently.

    Args:
        url: the gateway.
        count: number of streams.
        expected: the complete body of a stream.

    Returns:
        The complete responses, the errors by reason, and the seconds until the last stream ended.
    """
    request = request_bytes(PATH, body(stream=True), HEADERS)
    whole: list[HttpResponse] = []
    tally, started = LatencyTally(), time.perf_counter()

    async def one() -> None:
        async with HttpLoadClient(url) as client:
            answer = await send(client, request)
        if not isinstance(answer, HttpResponse) or answer.status != 200:
            tally.failed(error_kind(answer))
        elif answer.body != expected:
            tally.failed("cut short" if expected.startswith(answer.body) else "out of order")
        else:
            whole.append(answer)

    await asyncio.gather(*(one() for _ in range(count)))
    return whole, tally, time.perf_counter() - started


def measure(gateway: ContenderServer, count: int, chunks: int, chunk_ms: float) -> dict[str, Any]:
    """Measure `count` concurrent streams of `chunks` chunks each, `chunk_ms` apart."""
    expected = b"".join(events(chunks))
    uvloop.run(drive(gateway.url, 20, expected))  # Not counted: imports and first allocations.
    before = resident_bytes(gateway.pid)
    with PeakMemory(gateway.pid) as watch:
        whole, tally, seconds = uvloop.run(drive(gateway.url, count, expected))
    firsts = [answer.first_seconds * 1000 for answer in whole]
    return {
        "streams": count,
        "chunks": chunks,
        "chunk_ms": chunk_ms,
        "whole": len(whole),
        "errors": tally.errors,
        "seconds": round(seconds, 2),
        "paced_seconds": chunks * chunk_ms / 1000,
        "first_p50_ms": round(percentile(firsts, 0.5) or 0, 1),
        "first_p99_ms": round(percentile(firsts, 0.99) or 0, 1),
        "rss_mb_before": round(before / 1e6, 1),
        "rss_mb_peak": round(watch.peak_bytes / 1e6, 1),
        "rss_mb_after": round(resident_bytes(gateway.pid) / 1e6, 1),
    }
