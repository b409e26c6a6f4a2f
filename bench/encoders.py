"""`python -m bench.encoders` (`make bench-encoders`): compares this project's encoder with alternatives."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from bench import contenders as contender_list
from bench import files, machine, peers, report, rounds
from bench.cells import order_of_cells
from bench.command import orderly_exit, parse_numbers, say, start_server
from bench.contenders import DEFAULT, NAMES
from bench.paths import ROOT
from bench.rounds import EncoderResults, EncoderSchedule
from bench.servers import Contender, ContenderServer
from bench.workload import SHORT, WORKLOADS, Workload

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
        if name not in NAMES:
            raise typer.BadParameter(f"no contender '{name}'; there are {', '.join(NAMES)}")
    return found


def parse_workload(given: str) -> Workload:
    """Find a workload.

    Args:
        given: its name.

    Returns:
        The workload.

    Raises:
        typer.BadParameter: there is none of this name.
    """
    if given not in WORKLOADS:
        raise typer.BadParameter(f"no workload '{given}'; there are {', '.join(WORKLOADS)}")
    return WORKLOADS[given]


def prepare(workload: Workload, contenders: Sequence[str]) -> None:
    """Create the model, the reference vectors and the peers' environments if they are missing."""
    workload.prepare()
    if not workload.reference.is_file():
        subprocess.run([sys.executable, "-m", "bench.offline", workload.name, "reference"], cwd=ROOT, check=True)
    for engine, precision in contender_list.BUILT:
        if f"onecard-{engine}-{precision}" in contenders:
            command = ["build-engine", "embedding", "--engine", engine, "--precision", precision]
            command += ["--texts", str(workload.write_sample())]
            # It ends with the figures if the engine is too far from torch, as may be with random weights.
            subprocess.run(
                [sys.executable, "-m", "onecard_stack", *command],
                cwd=ROOT,
                env={**os.environ, **contender_list.engine_settings(workload)},
                check=True,
            )
    if any(name.startswith("infinity") for name in contenders):
        peers.install(peers.INFINITY)


def start_all(stack: ExitStack, workload: Workload, contenders: Sequence[Contender]) -> dict[str, ContenderServer]:
    """Start and warm up the servers one after the other. `stack` stops them."""
    servers = {}
    for contender in contenders:
        servers[contender.name] = start_server(stack, contender)
        rounds.warm_up(servers[contender.name], workload)
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
    contenders: Annotated[str, typer.Option(help=f"Of {', '.join(NAMES)}.")] = ",".join(DEFAULT),
    workload: Annotated[str, typer.Option(help=f"Model and texts: {', '.join(WORKLOADS)}.")] = SHORT.name,
    out: Annotated[Path | None, typer.Option(help="Folder for results; bench/results unless --quick.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A look only: one round, 2 s, 1 and 32 clients.")] = False,
) -> None:
    """Measure encoders on this machine, all with the same weights, and write .json, .md and .svg files.

    It takes about half an hour on two cores; nothing else should run meanwhile. Ctrl-C stops all servers; the results
    of complete rounds are kept.
    """
    served, chosen = parse_workload(workload), parse_contenders(contenders)
    described = {name: contender_list.contenders(served)[name] for name in chosen}
    if quick:
        round_count, heavy_rounds, seconds, clients = 1, 0, min(seconds, 2.0), "1,32" if clients == CLIENTS else clients
    schedule = EncoderSchedule(
        round_count, heavy_rounds, seconds, limit, order_of_cells(parse_numbers(clients), parse_numbers(texts)), served
    )
    folder = files.folder_for(out, quick=quick)
    head = machine.describe("python -m bench.encoders " + " ".join(sys.argv[1:]))

    def write(results: EncoderResults) -> None:
        report.write(folder, head, schedule, {name: contender.what for name, contender in described.items()}, results)

    with orderly_exit():
        prepare(served, chosen)
        with ExitStack() as stack:
            servers = start_all(stack, served, list(described.values()))
            rounds.run(servers, schedule, say=say, after_round=write)
    files.show(folder, served.results)


if __name__ == "__main__":
    typer.run(main)
