"""`python -m bench.precompute` (`make bench-precompute`): measures what precomputing costs and gains.

Expected: the worker changes the live p95 by less than 10 %, and a precomputed response takes less than 10 ms through
the gateway, and is computed again after a review was added.
"""

import asyncio
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
import uvloop

from bench import files, machine
from bench.clients import closed_loop
from bench.command import exit_with_failure, orderly_exit, say
from bench.http_client import HttpLoadClient, json_request
from bench.paths import ROOT, SAMPLE_REVIEWS
from bench.precompute import measure, report, requests, services
from bench.rounds import RoundProgress, rotated

MODELS = ROOT / ".onecard" / "models"
ADDED_REVIEWS = 5
"""Number of reviews that are added one by one, each followed by a round."""
READY_SECONDS = 20.0
CONCURRENT_LOAD_SECONDS = 75.0
"""Length of the live load during one more such round; longer than the round."""
REQUESTS_EACH = 3
"""Requests that make each restaurant or search popular."""


async def fill(stack: services.PrecomputeServices, sample: list[dict[str, Any]], restaurants: list[str]) -> None:
    """Store the sample reviews, make restaurants and searches popular, and run a round."""
    async with HttpLoadClient(stack.url) as client:
        await client.send(json_request("/v1/reviews", sample, {}))
    for _ in range(REQUESTS_EACH):
        await closed_loop(stack.url, iter(requests.popular(restaurants)), clients=2, seconds=120)
    await measure.run_round(stack.url)


async def run(
    stack: services.PrecomputeServices,
    sample: list[dict[str, Any]],
    results: report.PrecomputeResults,
    rounds: int,
    seconds: float,
) -> None:
    """Run all measurements.

    Args:
        stack: the services.
        sample: the sample reviews.
        results: where measurements are added.
        rounds: phases with the worker working, and as many with it idle.
        seconds: length of a phase.
    """
    restaurants = sorted({review["restaurant_id"] for review in sample})
    await fill(stack, sample, restaurants)
    await measure.phase(stack, sample, "idle", -1, results.rate, seconds)  # To warm up.
    progress = RoundProgress(2 * rounds, say)
    for number in range(rounds):
        for name in rotated(("working", "idle"), number):
            visits = await measure.phase(stack, sample, name, number, results.rate, seconds)
            results.visits += visits
            p50, p95 = visits[0].figures["p50_ms"] or 0, visits[0].figures["p95_ms"] or 0
            progress.step(f"round {number + 1}, worker {name}: p50 {p50:.1f} ms, p95 {p95:.1f} ms")
    results.ready = await measure.measure_ready(stack, restaurants, READY_SECONDS)
    for number in range(ADDED_REVIEWS):
        results.renewed.append(await measure.measure_renewal(stack, sample[number * 100], number))
    async with asyncio.TaskGroup() as both:
        both.create_task(measure.load(stack, sample, "beside", results.rate, CONCURRENT_LOAD_SECONDS, edits=0.0))
        results.renewed_beside = await measure.measure_renewal(stack, sample[-1], ADDED_REVIEWS)


def main(
    rate: Annotated[float, typer.Option(min=3, max=300, help="Live requests a second.")] = 30.0,
    rounds: Annotated[int, typer.Option(min=1, max=30, help="Phases with the worker at work, and without.")] = 5,
    seconds: Annotated[float, typer.Option(min=2, max=60, help="Length of one phase.")] = 16.0,
    models: Annotated[Path, typer.Option(help="Folder with the stand-ins.")] = MODELS,
    out: Annotated[Path | None, typer.Option(help="Folder for results; bench/results unless --quick.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A look only: two rounds of 5 s, under two minutes.")] = False,
) -> None:
    """Measure precomputing under live load and write precompute.json and .md; exit 1 if a promise did not hold.

    It takes seven minutes; nothing else should run meanwhile. Ctrl-C stops all servers.
    """
    if quick:
        rounds, seconds = 2, 5.0
    head = machine.describe("python -m bench.precompute " + " ".join(sys.argv[1:]))
    sample = [json.loads(line) for line in SAMPLE_REVIEWS.read_text().splitlines()]
    folder, results = files.folder_for(out, quick=quick), report.PrecomputeResults(rate)
    with orderly_exit(), TemporaryDirectory() as store, ExitStack() as stack:
        running = services.start(stack, models.resolve(), Path(store) / "reviews")
        uvloop.run(run(running, sample, results, rounds, seconds))
    document = report.write(folder, head, results)
    files.show(folder, "precompute")
    if document["broken_promises"]:
        exit_with_failure()


if __name__ == "__main__":
    typer.run(main)
