"""`python -m bench.strategy` (`make bench-strategy`): replays a day's traffic against the strategy's phases."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
import uvloop

from bench import files, machine, weights
from bench.command import orderly_exit, say
from bench.contenders import engine_settings
from bench.measurements import Measurement
from bench.paths import CLASSIFIER, ROOT
from bench.rounds import RoundProgress
from bench.strategy import measure, phases, report, traffic
from bench.strategy.phases import PHASES, Phase
from bench.strategy.traffic import CELLS

MODELS = ROOT / ".onecard" / "models"


def build(engines: bool) -> None:
    """Create both encoders, and engines for them, unless they are there.

    Args:
        engines: build engines for OpenVINO in half precision. Where one is too far from torch, torch serves.
    """
    weights.build()
    weights.build_classifier()
    if engines:
        settings = {**engine_settings(), "SENTIMENT_MODEL": str(CLASSIFIER), "USE_GPU": "false"}
        command = [sys.executable, "-m", "onecard_stack", "build-engine", "--precision", "half"]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **settings})


def measure_phase(
    phase: Phase,
    models: Path,
    seconds: float,
    part_seconds: float,
    results: report.StrategyResults,
    step: RoundProgress,
) -> None:
    """Start a phase, replay all cells against it, and stop it.

    Args:
        phase: the phase.
        models: folder with the stand-in for the LLM.
        seconds: length of a day.
        part_seconds: length of each other cell.
        results: where measurements are added.
        step: prints progress.
    """
    samples = weights.reviews()
    with TemporaryDirectory() as folder, ExitStack() as stack:
        running = phases.start(stack, phase, models, Path(folder), traffic.stored(samples, "other"))
        results.engines[phase.name] = running.engines()
        results.preparation_seconds[phase.name] = uvloop.run(measure.prepare(running, samples))
        uvloop.run(measure.replay(running, measure.WARM_UP, samples, part_seconds / 2))
        for cell in CELLS:
            length = seconds if len(cell.kinds) > 1 else part_seconds
            figures = uvloop.run(measure.replay(running, cell, samples, length))
            results.visits.append(Measurement(phase.name, cell.name, 0, figures))
            step.step(f"{phase.name}, {cell.name}: {figures['per_second'] or 0:.1f} requests/s")


def main(
    seconds: Annotated[float, typer.Option(min=1, max=120, help="Length of a day's replay.")] = 24.0,
    part_seconds: Annotated[float, typer.Option(min=1, max=60, help="Length of each other part.")] = 5.0,
    price: Annotated[float, typer.Option(min=0, help="Dollars an hour; the strategy's for a RTX 3090.")] = 0.29,
    engines: Annotated[bool, typer.Option(help="Build engines for phase 3 that are not there; minutes, once.")] = True,
    models: Annotated[Path, typer.Option(help="Folder with the stand-ins.")] = MODELS,
    out: Annotated[Path | None, typer.Option(help="Folder for results; bench/results unless --quick.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A look only: days of 6 s, parts of 2 s.")] = False,
) -> None:
    """Replay a day against each phase on this machine, one after the other, and write strategy.json and .md.

    It takes about twenty minutes; nothing else should run meanwhile. Ctrl-C stops all servers.
    """
    if quick:
        seconds, part_seconds = 6.0, 2.0
    folder, results = files.folder_for(out, quick=quick), report.StrategyResults(price)
    head = machine.describe("python -m bench.strategy " + " ".join(sys.argv[1:]))
    with orderly_exit():
        build(engines)
        progress = RoundProgress(len(PHASES) * len(CELLS), say)
        for phase in PHASES:
            measure_phase(phase, models.resolve(), seconds, part_seconds, results, progress)
        report.write(folder, head, results)
    files.show(folder, "strategy")


if __name__ == "__main__":
    typer.run(main)
