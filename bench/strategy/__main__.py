"""`python -m bench.strategy` (`make bench-strategy`): replays a day's traffic against the strategy's phases."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
import uvloop

from bench import machine, weights
from bench.command import Out, Progress, Quick, benchmark
from bench.contenders import engine_settings
from bench.measurements import Measurement, medians
from bench.paths import CLASSIFIER, ROOT
from bench.servers import Servers
from bench.strategy import measure, phases, traffic
from bench.strategy.phases import PHASES, Phase
from bench.strategy.promises import DAYS, PROMISES
from bench.strategy.traffic import CELLS, MIX, TEXTS
from bench.tables import bullets, number, page, percent, table


@dataclass
class StrategyResults:
    """All measurements so far."""

    price: float
    """Of the machine, in dollars an hour."""
    visits: list[Measurement] = field(default_factory=list)
    """Contenders are phases."""
    engines: dict[str, list[str]] = field(default_factory=dict)
    """What ran the encoders, by phase."""
    preparation_seconds: dict[str, float] = field(default_factory=dict)
    """How long storing reviews and precomputing took, by phase."""


def cost(per_second: float | None, price: float) -> float | None:
    """Compute what a million requests cost on a machine that is always busy, in dollars, at a price an hour."""
    return price * 1e6 / (per_second * 3600) if per_second else None


def as_json(head: Mapping[str, Any], results: StrategyResults) -> dict[str, Any]:
    """Collect all results, including the single measurements."""
    summary = medians(results.visits, largest=["errors"])
    return {
        "machine": dict(head),
        "price_an_hour": results.price,
        "engines": results.engines,
        "preparation_seconds": results.preparation_seconds,
        "promises": [
            {"what": one.what, "promised": one.promised, "measured": one.measured(summary), "why": one.why}
            for one in PROMISES
        ],
        "figures": summary,
        "visits": [asdict(visit) for visit in results.visits],
    }


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    summary, promises = document["figures"], document["promises"]
    mix = ", ".join(f"{kind} {share} % of {TEXTS[kind]}" for kind, share in MIX.items())
    return page(
        "# What the strategy promises, and what was measured",
        machine.line(document["machine"]),
        "Encoders of BERT-base's shape with random weights and a stand-in for the LLM, on a CPU: nothing here is about "
        "a card, where every ratio differs. [What is measured, and what this does not "
        "say](../README.md#the-strategy).",
        f"The day's requests, and texts in each: {mix}. A million requests at ${document['price_an_hour']} an hour.",
        bullets({phase.name: _what(phase.name, phase.what, document) for phase in PHASES}),
        *(part for day in DAYS for part in (f"## The day, {day}", table(_day_rows(summary, day, document)))),
        "## Promised and measured",
        "Where there are two figures, the first is without repeats and the second with Zipf's.",
        table([["what", "promised", "measured", "why"], *(list(one.values()) for one in promises)], rule="---"),
        "## All parts",
        table(_cell_rows(summary)),
    )


def _what(name: str, what: str, document: Mapping[str, Any]) -> str:
    engines, seconds = document["engines"].get(name), document["preparation_seconds"].get(name)
    more = f"; encoders on {' and '.join(dict.fromkeys(engines))}" if engines else ""
    return f"{what}{more}; {number(seconds, 0, ' s')} to prepare"


def _day_rows(summary: Mapping[str, Any], day: str, document: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        ["", "requests/s", "p50 ms", "p99 ms", "resident MB", "$ for a million", "not computed", "refused", "errors"]
    ]
    for name, cells in summary.items():
        if cell := cells.get(day):
            price = cost(cell["per_second"], document["price_an_hour"])
            figures = [number(cell[key]) for key in ("per_second", "p50_ms", "p99_ms")]
            more = [number(cell["resident_mb"], 0), number(price, 2), percent(cell["saved_share"])]
            rows.append([name, *figures, *more, *(number(cell[key], 0) for key in ("refused", "errors"))])
    return rows


def _cell_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    rows = [["phase, part", "requests", "requests/s", "p50 ms", "p99 ms", "cached p50 ms", "texts computed", "errors"]]
    for name, cells in summary.items():
        for each in CELLS:
            if cell := cells.get(each.name):
                keys = ("per_second", "p50_ms", "p99_ms", "hit_p50_ms", "texts_per_request")
                figures = [number(cell[key], 2) for key in keys]
                rows.append([f"{name}, {each.name}", number(cell["requests"], 0), *figures, number(cell["errors"], 0)])
    return rows


def build() -> None:
    """Create both encoders unless they are there, and engines in half precision; torch serves where it must."""
    weights.build()
    weights.build_classifier()
    settings = {**engine_settings(), "SENTIMENT_MODEL": str(CLASSIFIER), "USE_GPU": "false"}
    command = [sys.executable, "-m", "onecard_stack", "build-engine", "--precision", "half"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **settings})


def measure_phase(
    phase: Phase, seconds: float, part_seconds: float, results: StrategyResults, progress: Progress
) -> None:
    """Start a phase, replay all cells against it, add the figures to `results`, and stop it."""
    samples = weights.reviews()
    with TemporaryDirectory() as folder, Servers("strategy-") as servers:
        running = phases.start(servers, phase, Path(folder), traffic.stored(samples, "other"))
        results.engines[phase.name] = running.engines()
        results.preparation_seconds[phase.name] = uvloop.run(measure.prepare(running, samples))
        uvloop.run(measure.replay(running, measure.WARM_UP, samples, part_seconds / 2))
        for cell in CELLS:
            length = seconds if len(cell.kinds) > 1 else part_seconds
            figures = uvloop.run(measure.replay(running, cell, samples, length))
            results.visits.append(Measurement(phase.name, cell.name, 0, figures))
            progress.step(f"{phase.name}, {cell.name}: {figures['per_second'] or 0:.1f} requests/s")


def main(
    price: Annotated[float, typer.Option(min=0, help="Dollars an hour; the strategy's for a RTX 3090.")] = 0.29,
    out: Out = None,
    quick: Quick = False,
) -> None:
    """Replay a day against each phase on this machine, one after the other, and write strategy.json and .md.

    It takes about twenty minutes; nothing else should run meanwhile. Ctrl-C stops all servers.
    """
    seconds, part_seconds = (6.0, 2.0) if quick else (24.0, 5.0)
    results = StrategyResults(price)
    with benchmark("strategy", out, quick=quick) as run:
        build()
        progress = Progress(len(PHASES) * len(CELLS))
        for phase in PHASES:
            measure_phase(phase, seconds, part_seconds, results, progress)
        document = as_json(run.head, results)
        run.write(document, as_markdown(document))


if __name__ == "__main__":
    typer.run(main)
