"""The load that every relay gets: short chats by wrk, and many streams at a time."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import uvloop

from bench.canned import MODEL, PATH, events
from bench.clients import HttpLoadClient, HttpResponse, Tally, exchange, request_bytes, status_failure
from bench.measurements import Figures, percentile
from bench.memory import PeakMemory
from bench.servers import ContenderServer, ServerFailed

KEY = "sk-bench-0123456789abcdef"
"""The key that clients send. LiteLLM requires the prefix `sk-`."""
HEADERS = {"authorization": f"Bearer {KEY}"}
SCRIPT = Path(__file__).with_name("wrk.lua")
GENERATOR = "wrk, one thread"
_MARK = "figures: "


def body(*, stream: bool = False) -> bytes:
    """Render a short chat request."""
    messages = [{"role": "user", "content": "국물이 진하고 좋았어요. 어떤 느낌인가요?"}]
    more = {"stream": True} if stream else {}
    return json.dumps({"model": MODEL, "messages": messages, "max_tokens": 16, **more}).encode()


def run(url: str, clients: int, seconds: float) -> Figures:
    """Load one server by wrk in a closed loop. Returns requests a second, latencies and the number of errors."""
    if not shutil.which("wrk"):
        raise ServerFailed("wrk is not installed, which makes the load (Debian: apt install wrk)")
    headers = [part for pair in HEADERS.items() for part in pair]
    options = ["-t", "1", "-c", str(clients), "-d", f"{max(1, round(seconds))}s", "--timeout", "60s"]
    command = ["wrk", *options, "-s", str(SCRIPT), url, "--", body().decode(), *headers]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        raise ServerFailed(f"wrk failed:\n{made.stderr[-2000:]}")
    return parse(made.stdout)


def parse(printed: str) -> Figures:
    """Parse the figures that `wrk.lua` prints; wrk counts responses of any status, and errors separately."""
    line = next((line for line in printed.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        raise ServerFailed(f"wrk printed no figures:\n{printed[-2000:]}")
    found = json.loads(line.removeprefix(_MARK))
    good = found["requests"] - found["status"]
    p50, p99 = (found[name] / 1000 if found["requests"] else None for name in ("p50_us", "p99_us"))
    return {
        "per_second": good / found["microseconds"] * 1e6,
        "p50_ms": p50,
        "p99_ms": p99,
        "errors": sum(found[name] for name in ("connect", "read", "write", "status", "timeout")),
    }


async def drive_streams(url: str, count: int, expected: bytes) -> tuple[list[HttpResponse], Tally]:
    """Run `count` streams concurrently, and tell those that are not `expected`, byte for byte, as errors."""
    tally = Tally()

    def torn(answer: HttpResponse) -> str | None:
        if answer.status != 200 or answer.body == expected:
            return status_failure(answer)
        return "cut short" if expected.startswith(answer.body) else "out of order"

    async def one() -> HttpResponse | None:
        async with HttpLoadClient(url) as client:
            request = request_bytes(PATH, body(stream=True), HEADERS)
            return await exchange(client, request, tally, tally.started, torn)

    answers = await asyncio.gather(*(one() for _ in range(count)))
    return [answer for answer in answers if answer is not None], tally


def measure_streams(gateway: ContenderServer, count: int, chunks: int, chunk_ms: float) -> dict[str, Any]:
    """Measure `count` concurrent streams of `chunks` chunks each, `chunk_ms` apart."""
    expected = b"".join(events(chunks))
    uvloop.run(drive_streams(gateway.url, 20, expected))  # Not counted: imports and first allocations.
    before = gateway.resident_mb()
    with PeakMemory(gateway.pid) as watch:
        whole, tally = uvloop.run(drive_streams(gateway.url, count, expected))
    firsts = [answer.first_seconds * 1000 for answer in whole]
    return {
        "streams": count,
        "chunks": chunks,
        "chunk_ms": chunk_ms,
        "whole": len(whole),
        "errors": tally.errors,
        "seconds": round(tally.seconds, 2),
        "paced_seconds": chunks * chunk_ms / 1000,
        "first_p50_ms": round(percentile(firsts, 0.5) or 0, 1),
        "first_p99_ms": round(percentile(firsts, 0.99) or 0, 1),
        "rss_mb_before": round(before, 1),
        "rss_mb_peak": round(watch.peak_mb, 1),
        "rss_mb_after": round(gateway.resident_mb(), 1),
    }
