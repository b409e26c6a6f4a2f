"""The load generator: `python -m bench.load` reads a `LoadSpec` from standard input and writes a `LoadOutcome`.

It is a process of its own, and uses little CPU time, because it shares the cores with the server under test: bodies
are prepared before the clock starts, and only status and length of a response are checked.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict

import aiohttp
import uvloop

from bench.cells import LoadCell, LoadOutcome, LoadSpec
from bench.stats import percentile
from bench.workload import WORKLOADS

BODIES_PER_SECOND = 1_000
"""Requests prepared per second of load. A faster server ends the cell early."""
MAX_BODY_TEXTS = 20_000
"""Maximum number of texts prepared for a cell, plus one request per client."""
MIN_RESPONSE_BYTES = 2_000
"""Shorter responses are errors: a vector of 384 numbers is longer in any encoding."""
PAUSE_AFTER_ERROR_SECONDS = 0.05


class LatencyTally:
    """Collects latencies and errors."""

    def __init__(self) -> None:
        self.latencies_ms: list[float] = []
        self.errors: dict[str, int] = {}
        self.last = 0.0
        """Clock at the last response."""

    def succeeded(self, started: float) -> None:
        """Record a successful response."""
        self.last = time.perf_counter()
        self.latencies_ms.append((self.last - started) * 1000)

    def failed(self, why: str) -> None:
        """Record an error."""
        self.last = time.perf_counter()
        self.errors[why] = self.errors.get(why, 0) + 1


def bodies(load: LoadSpec) -> list[bytes]:
    """Prepare request bodies; no text occurs twice."""
    cell = load.cell
    most = min(int(BODIES_PER_SECOND * load.seconds), MAX_BODY_TEXTS // cell.texts) + cell.clients
    made = WORKLOADS[load.workload].texts(most * cell.texts, seed=load.seed)
    rows = (made[start : start + cell.texts] for start in range(0, len(made), cell.texts))
    return [body(row, load.model) for row in rows]


def body(inputs: list[str], model: str) -> bytes:
    """Render a body of OpenAI's embeddings API, with the encoding that OpenAI's SDKs use."""
    return json.dumps({"input": inputs, "model": model, "encoding_format": "base64"}, ensure_ascii=False).encode()


async def client(
    session: aiohttp.ClientSession, url: str, supply: Iterator[bytes], end: float, tally: LatencyTally
) -> None:
    """Send one request after the other.

    Args:
        session: the HTTP client.
        url: the server.
        supply: bodies; shared by all clients. The client ends when they do.
        end: clock after which no new request is sent.
        tally: where results are recorded.
    """
    while time.perf_counter() < end and (data := next(supply, None)) is not None:
        started = time.perf_counter()
        try:
            async with session.post(url, data=data) as response:
                answer = await response.read()
        except aiohttp.ClientError as error:
            tally.failed(type(error).__name__)
        else:
            if response.status == 200 and len(answer) >= MIN_RESPONSE_BYTES:
                tally.succeeded(started)
                continue
            tally.failed(str(response.status) if response.status != 200 else "short answer")
        await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)


async def drive(load: LoadSpec) -> LoadOutcome:
    """Run one cell with `load.cell.clients` concurrent clients."""
    made = bodies(load)
    supply, tally = iter(made), LatencyTally()
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"content-type": "application/json"},
    )
    async with session:
        started = time.perf_counter()
        end = started + load.seconds
        clients = [asyncio.create_task(client(session, load.url, supply, end, tally)) for _ in range(load.cell.clients)]
        done, late = await asyncio.wait(clients, timeout=load.limit_seconds)
        stopped = time.perf_counter()
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task in done:
            task.result()
    return summary(load.cell, tally, len(late), (stopped if late else tally.last) - started)


def summary(cell: LoadCell, tally: LatencyTally, unfinished: int, seconds: float) -> LoadOutcome:
    """Summarise a cell. Unfinished requests count in `seconds`, but not in `texts`."""
    count = len(tally.latencies_ms)
    return LoadOutcome(
        requests=count,
        texts=count * cell.texts,
        seconds=seconds,
        texts_per_second=count * cell.texts / seconds,
        p50_ms=percentile(tally.latencies_ms, 0.50),
        p95_ms=percentile(tally.latencies_ms, 0.95),
        p99_ms=percentile(tally.latencies_ms, 0.99),
        errors=tally.errors,
        unfinished=unfinished,
    )


def main() -> None:
    """Run the cell of standard input and write its figures to standard output."""
    given = json.load(sys.stdin)
    load = LoadSpec(**{**given, "cell": LoadCell(**given["cell"])})
    json.dump(asdict(uvloop.run(drive(load))), sys.stdout)


if __name__ == "__main__":
    main()
