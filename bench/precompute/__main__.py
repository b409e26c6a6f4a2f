"""`python -m bench.precompute` (`make bench-precompute`): measures what precomputing costs and gains.

Expected: the worker changes the live p95 by less than 10 %, and a precomputed response takes less than 10 ms through
the gateway, and is computed again after a review was added.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer
import uvloop

from bench import machine
from bench.command import Out, Progress, Quick, benchmark, exit_if, rotated
from bench.measurements import Figures, Measurement, median_of_present, medians, paired
from bench.paths import SAMPLE_REVIEWS
from bench.precompute import measure
from bench.servers import Servers
from bench.tables import number, page, percent, table, verdict

MAX_P95_RATIO = 1.10
"""Target: live p95 with a working worker, divided by that with an idle one."""
MAX_READY_MS = 10.0
"""Target: p50 and p99 of precomputed responses."""
FIGURES = ("p50_ms", "p95_ms", "p99_ms")


@dataclass
class PrecomputeResults:
    """All measurements so far."""

    rate: float
    """Live requests per second."""
    visits: list[Measurement] = field(default_factory=list)
    """Contenders are `working` and `idle`, cells are kinds of requests and `all`."""
    ready: Figures = field(default_factory=dict)
    renewed: list[dict[str, Any]] = field(default_factory=list)
    """Renewals without live load."""
    renewed_beside: dict[str, Any] = field(default_factory=dict)
    """The renewal during live load."""


def as_json(head: Mapping[str, Any], results: PrecomputeResults) -> dict[str, Any]:
    """Collect all results, including the single measurements."""
    document = {
        "machine": dict(head),
        "rate": results.rate,
        "medians": medians(results.visits, largest=["errors"]),
        "working_over_idle": {figure: paired(results.visits, "working", "idle", figure) for figure in FIGURES},
        "ready": results.ready,
        "renewed": results.renewed,
        "renewed_beside_live_load": results.renewed_beside,
        "visits": [asdict(visit) for visit in results.visits],
    }
    return {**document, "broken_promises": missed_targets(document)}


def missed_targets(document: Mapping[str, Any]) -> list[str]:
    """List the targets that were missed, one line each."""
    times = document["working_over_idle"]["p95_ms"].get("all")
    working = [visit["figures"] for visit in document["visits"] if visit["contender"] == "working"]
    errors = sum(cell["errors"] or 0 for cells in document["medians"].values() for cell in cells.values())
    ready, renewed = document["ready"], [*document["renewed"], document["renewed_beside_live_load"]]
    share, failed = ready.get("share_ready"), ready.get("errors") or 0
    idle = any(figures.get("computed_per_second") == 0 for figures in working)
    stale = not all(one.get("ready") and one.get("counted") for one in renewed)
    checks: list[tuple[bool, str]] = [
        (times is None or times >= MAX_P95_RATIO, f"live p95 is {number(times, 3)} times what it is without worker"),
        (idle, "the worker computed nothing while it was to be at work"),
        (errors > 0, f"{errors:g} requests failed"),
        (share is None or share < 1, f"not all of what was made ready lay ready: {number(share, 3)}"),
        (failed > 0, f"{failed:g} requests for what lies ready failed"),
        (stale, "an answer was not made ready anew after a review was added"),
    ]
    for name in ("p50_ms", "p99_ms"):
        taken = ready.get(name)
        late = taken is None or taken >= MAX_READY_MS
        checks.append((late, f"{name} of answers that lie ready: {number(taken)}"))
    return [line for missed, line in checks if missed]


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    ready, renewed = document["ready"], document["renewed"]
    seconds = median_of_present([one["seconds"] for one in renewed])
    beside = document["renewed_beside_live_load"].get("seconds")
    return page(
        "# Precomputing",
        machine.line(document["machine"]),
        f"{document['rate']:g} live requests a second, none of them in the cache, while reviews change. The worker "
        "computes all the time, or rests. [How](../README.md#precomputing).",
        table(_rows(document)),
        f"Promised: p95 of live requests less than {MAX_P95_RATIO:g} times that without the worker.",
        f"**An answer that lies ready**, through the gateway: p50 {number(ready.get('p50_ms'), 2)} ms, p99 "
        f"{number(ready.get('p99_ms'), 2)} ms; {percent(ready.get('share_ready'), 1)} of "
        f"{number(ready.get('requests'), 0)} lay ready.",
        f"**After a review was added** and a round asked for, {number(seconds, 2)} s (median of {len(renewed)}) until "
        f"all that is popular was ready again, with that review in it; beside the live load {number(beside)} s.",
        verdict(document["broken_promises"]),
    )


def _rows(document: Mapping[str, Any]) -> Sequence[Sequence[str]]:
    rows = [["live requests", "worker", "p50 ms", "p95 ms", "p99 ms", "in a phase", "errors", "computed/s", "phases"]]
    summary, times = document["medians"], document["working_over_idle"]
    for kind in summary.get("working", {}):
        for name in ("idle", "working"):
            cell = summary[name][kind]
            figures = [number(cell[figure], 2) for figure in FIGURES]
            counts = [number(cell["requests"], 0), number(cell["errors"], 0), number(cell.get("computed_per_second"))]
            rows.append([kind, name, *figures, *counts, str(cell["rounds"])])
        ratios = [number(times[figure].get(kind), 3, "×") for figure in FIGURES]
        rows.append(["", "median of the rounds' ratios", *ratios, "", "", "", ""])
    return rows


ADDED_REVIEWS = 5
"""Number of reviews that are added one by one, each followed by a round."""
RATE = 30.0
"""Live requests a second."""
READY_SECONDS = 20.0
CONCURRENT_LOAD_SECONDS = 75.0
"""Length of the live load during one more such round; longer than the round."""


async def measure_all(
    servers: Servers, sample: measure.Reviews, results: PrecomputeResults, rounds: int, seconds: float
) -> None:
    """Run all measurements: `rounds` phases with the worker working and as many with it idle, then the rest."""
    url, restaurants = servers.of("gateway").url, sorted({review["restaurant_id"] for review in sample})
    await measure.fill(url, sample, restaurants)
    await measure.phase(servers, sample, "idle", -1, results.rate, seconds)  # To warm up.
    progress = Progress(2 * rounds)
    for turn in range(rounds):
        for name in rotated(("working", "idle"), turn):
            visits = await measure.phase(servers, sample, name, turn, results.rate, seconds)
            results.visits += visits
            p50, p95 = visits[0].figures["p50_ms"] or 0, visits[0].figures["p95_ms"] or 0
            progress.step(f"round {turn + 1}, worker {name}: p50 {p50:.1f} ms, p95 {p95:.1f} ms")
    results.ready = await measure.measure_ready(url, restaurants, READY_SECONDS)
    for place in range(ADDED_REVIEWS):
        results.renewed.append(await measure.measure_renewal(url, sample[place * 100], place))
    async with asyncio.TaskGroup() as both:
        both.create_task(measure.load(url, sample, "beside", results.rate, CONCURRENT_LOAD_SECONDS, edit_rate=0.0))
        results.renewed_beside = await measure.measure_renewal(url, sample[-1], ADDED_REVIEWS)


def main(out: Out = None, quick: Quick = False) -> None:
    """Measure precomputing under live load and write precompute.json and .md; exit 1 if a promise did not hold.

    It takes seven minutes; nothing else should run meanwhile. Ctrl-C stops all servers.
    """
    rounds, seconds = (2, 5.0) if quick else (5, 16.0)
    sample = [json.loads(line) for line in SAMPLE_REVIEWS.read_text().splitlines()]
    results = PrecomputeResults(RATE)
    with benchmark("precompute", out, quick=quick) as run:
        with TemporaryDirectory() as store, Servers("precompute-") as servers:
            measure.start(servers, Path(store) / "reviews")
            uvloop.run(measure_all(servers, sample, results, rounds, seconds))
        document = as_json(run.head, results)
        run.write(document, as_markdown(document))
    exit_if(document["broken_promises"])


if __name__ == "__main__":
    typer.run(main)
