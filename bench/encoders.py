"""`python -m bench.encoders`, which is `make bench-encoders`: this project's encoder beside what people use instead."""

import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from bench import infinity, machine, report, rounds, weights
from bench.cells import order_of_cells
from bench.places import MODEL, QUICK_RESULTS, REFERENCE, RESULTS, ROOT
from bench.rounds import Results, Schedule
from bench.servers import CONTENDERS, DEFAULT, Server, ServerFailed

CLIENTS = "1,8,32,128"
TEXTS = "1,32"


def numbers(given: str) -> list[int]:
    """`1,8,32` → [1, 8, 32].

    Raises:
        typer.BadParameter: that is not what it is.
    """
    try:
        found = [int(part) for part in given.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise typer.BadParameter(f"'{given}' is not a list of whole numbers from 1, such as {CLIENTS}")
    return found


def names(given: str) -> list[str]:
    """Names of contenders.

    Raises:
        typer.BadParameter: there is no such contender.
    """
    found = list(dict.fromkeys(part.strip() for part in given.split(",")))
    for name in found:
        if name not in CONTENDERS:
            raise typer.BadParameter(f"no contender '{name}'; there are {', '.join(CONTENDERS)}")
    return found


def prepare(contenders: list[str]) -> None:
    """Model, reference vectors and peers, whatever is missing."""
    if not weights.ready():
        print(f"Making the model in {MODEL.relative_to(ROOT)} (10 s, once)", flush=True)
        weights.build()
        REFERENCE.unlink(missing_ok=True)
    if not REFERENCE.is_file():
        subprocess.run([sys.executable, "-m", "bench.offline", "reference"], cwd=ROOT, check=True)
    if any(name.startswith("infinity") for name in contenders):
        infinity.install()


def start_all(stack: ExitStack, contenders: list[str]) -> dict[str, Server]:
    """Start the servers one after the other; `stack` stops them."""
    servers = {}
    for name in contenders:
        print(f"Starting {name}: {CONTENDERS[name].what}", flush=True)
        servers[name] = stack.enter_context(Server(CONTENDERS[name]))
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

    The whole takes about half an hour on two cores; nothing else should run meanwhile. Ctrl-C stops all servers; what
    whole rounds have measured is kept.
    """
    chosen = names(contenders)
    if quick:
        round_count, heavy_rounds, seconds, clients = 1, 0, min(seconds, 2.0), "1,32" if clients == CLIENTS else clients
    schedule = Schedule(round_count, heavy_rounds, seconds, limit, order_of_cells(numbers(clients), numbers(texts)))
    folder = out or (QUICK_RESULTS if quick else RESULTS)
    head = machine.describe("python -m bench.encoders " + " ".join(sys.argv[1:]))

    def write(results: Results) -> None:
        report.write(folder, head, schedule, {name: CONTENDERS[name].what for name in chosen}, results)

    if machine.busy():
        print("Something else is using this machine: expect figures that are too low and that vary.", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        prepare(chosen)
        with ExitStack() as stack:
            servers = start_all(stack, chosen)
            rounds.run(servers, schedule, say=lambda text: print(text, flush=True), after_round=write)
    except KeyboardInterrupt:
        print("\nInterrupted; every server is stopped.")
        raise typer.Exit(130) from None
    except (ServerFailed, infinity.InstallFailed, subprocess.CalledProcessError) as error:
        print(f"Stopped: {error}")
        raise typer.Exit(1) from None
    print(f"\n{(folder / 'encoders.md').read_text()}\nWritten to {folder}")


if __name__ == "__main__":
    typer.run(main)
