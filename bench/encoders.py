"""`python -m bench.encoders` (`make bench-encoders`): compares this project's encoder with alternatives."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from bench import contenders as contender_list
from bench import files, machine, peers, report, rounds, weights
from bench.cells import order_of_cells
from bench.command import orderly_exit, parse_numbers, say
from bench.contenders import CONTENDERS, DEFAULT
from bench.paths import MODEL, REFERENCE, ROOT
from bench.rounds import EncoderResults, EncoderSchedule
from bench.servers import ContenderServer

CLIENTS = "1,8,32,128"
TEXTS = "1,32"


def parse_contenders(given: str) -> list[str]:
    """Parse names of contenders, separated by commas.

    Args:
        given: the names.

    Returns:
        Each name once, in this order.

    Raises:
        typer.BadParameter: there is no such contender.
    """
    found = list(dict.fromkeys(part.strip() for part in given.split(",")))
    for name in found:
        if name not in CONTENDERS:
            raise typer.BadParameter(f"no contender '{name}'; there are {', '.join(CONTENDERS)}")
    return found


def prepare(contenders: list[str]) -> None:
    """Create the model, the reference vectors and the peers' environments if they are missing."""
    if not weights.ready():
        print(f"Making the model in {MODEL.relative_to(ROOT)} (10 s, once)", flush=True)
        weights.build()
        REFERENCE.unlink(missing_ok=True)
    if not REFERENCE.is_file():
        subprocess.run([sys.executable, "-m", "bench.offline", "reference"], cwd=ROOT, check=True)
    for engine, precision in contender_list.BUILT:
        if f"onecard-{engine}-{precision}" in contenders:
            command = ["build-engine", "embedding", "--engine", engine, "--precision", precision]
            # It ends with the figures if the engine is too far from torch, as may be with random weights.
            subprocess.run(
                [sys.executable, "-m", "onecard_stack", *command],
                cwd=ROOT,
                env={**os.environ, **contender_list.engine_settings()},
                check=True,
            )
    if any(name.startswith("infinity") for name in contenders):
        peers.install(peers.INFINITY)


def start_all(stack: ExitStack, contenders: list[str]) -> dict[str, ContenderServer]:
    """Start and warm up the servers one after the other. `stack` stops them."""
    servers = {}
    for name in contenders:
        print(f"Starting {name}: {CONTENDERS[name].what}", flush=True)
        servers[name] = stack.enter_context(ContenderServer(CONTENDERS[name]))
        servers[name].wait_ready()
        rounds.warm_up(servers[name])
    return servers


def main(
    round_count: Annotated[int, typer.Option("--rounds", min=1, help="Visits to each cell.")] = 3,
    heavy_rounds: Annotated[
        int, typer.Option(min=0, help="Rounds that visit cells of 1,000 texts in flight and more; they take minutes.")
    ] = 1,
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of one cell.")] = 6.0,
    limit: Annotated[float, typer.Option(min=1, help="Most seconds of one cell, its last answers included.")] = 420.0,
    clients: Annotated[str, typer.Option(help="Clients at a time, separated by commas.")] = CLIENTS,
    texts: Annotated[str, typer.Option(help="Texts in a request, separated by commas.")] = TEXTS,
    contenders: Annotated[str, typer.Option(help=f"Of {', '.join(CONTENDERS)}.")] = ",".join(DEFAULT),
    out: Annotated[Path | None, typer.Option(help="Folder for results; bench/results unless --quick.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A look only: one round, 2 s, 1 and 32 clients.")] = False,
) -> None:
    """Measure encoders on this machine, all with the same weights, and write encoders.json, .md and .svg.

    It takes about half an hour on two cores; nothing else should run meanwhile. Ctrl-C stops all servers; the results
    of complete rounds are kept.
    """
    chosen = parse_contenders(contenders)
    if quick:
        round_count, heavy_rounds, seconds, clients = 1, 0, min(seconds, 2.0), "1,32" if clients == CLIENTS else clients
    schedule = EncoderSchedule(
        round_count, heavy_rounds, seconds, limit, order_of_cells(parse_numbers(clients), parse_numbers(texts))
    )
    folder = files.folder_for(out, quick=quick)
    head = machine.describe("python -m bench.encoders " + " ".join(sys.argv[1:]))

    def write(results: EncoderResults) -> None:
        report.write(folder, head, schedule, {name: CONTENDERS[name].what for name in chosen}, results)

    with orderly_exit():
        prepare(chosen)
        with ExitStack() as stack:
            servers = start_all(stack, chosen)
            rounds.run(servers, schedule, say=say, after_round=write)
    files.show(folder, "encoders")


if __name__ == "__main__":
    typer.run(main)
