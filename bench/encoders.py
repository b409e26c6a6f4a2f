"""`python -m bench.encoders` (`make bench-encoders`): compares this project's encoder with alternatives."""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from bench import contenders as contender_list
from bench import peers, report, rounds
from bench.command import Clients, Out, Quick, benchmark, parse_names, parse_numbers
from bench.contenders import DEFAULT, NAMES
from bench.load import LoadCell
from bench.paths import ROOT
from bench.rounds import EncoderResults, EncoderSchedule
from bench.servers import Contender, ContenderServer, Servers
from bench.workload import SHORT, WORKLOADS, Workload

CLIENTS = "1,8,32,128"


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
            settings = {**os.environ, **contender_list.engine_settings(workload)}
            subprocess.run([sys.executable, "-m", "onecard_stack", *command], cwd=ROOT, env=settings, check=True)
    if any(name.startswith("infinity") for name in contenders):
        peers.install(peers.INFINITY)


def start_all(servers: Servers, workload: Workload, contenders: Sequence[Contender]) -> dict[str, ContenderServer]:
    """Start and warm up the servers one after the other."""
    started = {}
    for contender in contenders:
        started[contender.name] = servers.start(contender)
        rounds.warm_up(started[contender.name], workload)
    return started


def main(
    round_count: Annotated[int, typer.Option("--rounds", min=1, help="Visits to each cell.")] = 3,
    heavy_rounds: Annotated[
        int, typer.Option(min=0, help="Rounds that visit cells of 1,000 texts in flight and more; they take minutes.")
    ] = 1,
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of one cell.")] = 6.0,
    limit: Annotated[float, typer.Option(min=1, help="Most seconds of one cell, its last answers included.")] = 420.0,
    clients: Clients = CLIENTS,
    texts: Annotated[str, typer.Option(help="Texts in a request, separated by commas.")] = "1,32",
    contenders: Annotated[str, typer.Option(help=f"Of {', '.join(NAMES)}.")] = ",".join(DEFAULT),
    workload: Annotated[str, typer.Option(help=f"Model and texts: {', '.join(WORKLOADS)}.")] = SHORT.name,
    out: Out = None,
    quick: Quick = False,
) -> None:
    """Measure encoders on this machine, all with the same weights, and write .json and .md files.

    It takes about half an hour on two cores; nothing else should run meanwhile. Ctrl-C stops all servers; the results
    of complete rounds are kept.
    """
    served, chosen = WORKLOADS[parse_names(workload, [*WORKLOADS])[0]], parse_names(contenders, NAMES)
    described = [contender_list.contenders(served)[each] for each in chosen]
    if quick:
        round_count, heavy_rounds, seconds, clients = 1, 0, min(seconds, 2.0), "1,32" if clients == CLIENTS else clients
    numbers = parse_numbers(clients), parse_numbers(texts)
    cells = sorted(LoadCell(each, count) for each in numbers[1] for count in numbers[0])
    schedule = EncoderSchedule(round_count, heavy_rounds, seconds, limit, cells, served)
    with benchmark("encoders", out, quick=quick, name=served.results) as run:

        def write(results: EncoderResults) -> None:
            document = report.as_json(run.head, schedule, {each.name: each.what for each in described}, results)
            run.write(document, report.as_markdown(document))

        prepare(served, chosen)
        with Servers() as servers:
            rounds.run(start_all(servers, served, described), schedule, write)


if __name__ == "__main__":
    typer.run(main)
