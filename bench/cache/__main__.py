"""`python -m bench.cache` (`make bench-cache`): measures what the cache saves."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from bench import files, machine, weights
from bench.cache import measure, report, services
from bench.cache.workload import DISTINCT, EXPONENT, KINDS, REQUESTS, zipf
from bench.command import orderly_exit, say
from bench.measurements import Measurement
from bench.paths import MODEL, ROOT
from bench.rounds import RoundProgress, rotated

BLOCK, QUICK_BLOCK = 1_000, 200


def prepare() -> None:
    """Create both models if they are missing."""
    say(f"Models are in {MODEL.parent.relative_to(ROOT)}; the first time they are made (20 s)")
    weights.build()
    weights.build_classifier()


def measure_latencies(
    stack: services.CachedServices, rounds: int, seconds: float, results: report.CacheResults
) -> None:
    """Measure every kind of request, as hits and as misses, in rounds.

    Args:
        stack: the services.
        rounds: number of rounds.
        seconds: length of one measurement.
        results: where measurements are added.
    """
    progress = RoundProgress(rounds * len(KINDS) * 2, say)
    for number in range(rounds):
        for kind in KINDS:
            for name in rotated(("hit", "miss"), number):
                if name == "hit":
                    figures = uvloop.run(measure.hits(stack.gateway.url, kind, seconds))
                else:
                    figures = uvloop.run(measure.misses(stack.gateway.url, kind, seconds, f"round {number} {kind}"))
                results.visits.append(Measurement(name, kind, number, figures))
                p50, p99 = figures["p50_ms"] or 0, figures["p99_ms"] or 0
                progress.step(f"round {number + 1}: {kind}, {name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


def main(
    round_count: Annotated[int, typer.Option("--rounds", min=1, max=5, help="Visits to each cell.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, max=10, help="Length of one measurement.")] = 5.0,
    workload_seconds: Annotated[float, typer.Option(min=1, max=600, help="Length of the workload.")] = 180.0,
    out: Annotated[Path | None, typer.Option(help="Folder for results; bench/results unless --quick.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A look only: one round, 2 s, 20 s of the workload.")] = False,
) -> None:
    """Measure the cache on this machine, through the gateway, and write cache.json, .md and .svg.

    It takes about ten minutes; nothing else should run meanwhile. Ctrl-C stops all servers.
    """
    if quick:
        round_count, seconds, workload_seconds = 1, min(seconds, 2.0), min(workload_seconds, 20.0)
    folder, results = files.folder_for(out, quick=quick), report.CacheResults()
    head = machine.describe("python -m bench.cache " + " ".join(sys.argv[1:]))
    draws = zipf(REQUESTS, DISTINCT, EXPONENT, seed="zipf")
    size = QUICK_BLOCK if quick else BLOCK
    with orderly_exit():
        prepare()
        with ExitStack() as stack:
            cached = services.start(stack, cached=True)
            measure_latencies(cached, round_count, seconds, results)
            uncached = services.start(stack, cached=False)
            going = measure.workload(cached, uncached, draws, size=size, seconds=workload_seconds, say=say)
            results.blocks, results.draws = uvloop.run(going), draws
        report.write(folder, head, results)
    files.show(folder, "cache")


if __name__ == "__main__":
    typer.run(main)
