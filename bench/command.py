"""What all benchmark commands share: their options, the frame of a run, and its rounds."""

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import machine
from bench.measurements import Figures, Measurement
from bench.paths import QUICK_RESULTS, RESULTS, ROOT
from bench.peers import InstallFailed
from bench.servers import ServerFailed

MODELS = ROOT / ".onecard" / "models"
"""Folder into which `make` trains the stand-ins."""

Out = Annotated[Path | None, typer.Option(help="Folder for results; bench/results unless it is only a look.")]
Quick = Annotated[bool, typer.Option("--quick", help="A look only: few, short measurements.")]
Rounds = Annotated[int, typer.Option("--rounds", min=1, max=40, help="Visits to each cell.")]
Clients = Annotated[str, typer.Option(help="Clients at a time, separated by commas.")]


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, flush=True)


def parse_numbers(given: str) -> list[int]:
    """Parse whole numbers from 1, separated by commas: `1,8,32` becomes [1, 8, 32]."""
    try:
        found = [int(part) for part in given.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise typer.BadParameter(f"'{given}' is not a list of whole numbers from 1, such as 1,8,32")
    return found


def parse_names(given: str, known: Sequence[str]) -> list[str]:
    """Parse names of those that are `known`, separated by commas. Returns each once, in this order."""
    found = list(dict.fromkeys(part.strip() for part in given.split(",")))
    for name in found:
        if name not in known:
            raise typer.BadParameter(f"no '{name}' here; there are {', '.join(known)}")
    return found


@dataclass(frozen=True)
class Run:
    """One run of a benchmark."""

    name: str
    """Name of the result files without suffix."""
    folder: Path
    head: dict[str, Any]
    """Description of the machine."""

    def write(self, document: Mapping[str, Any], markdown: str) -> None:
        """Write the `.json` and the `.md` file, replacing older ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document, indent=1, ensure_ascii=False)
        (self.folder / f"{self.name}.json").write_text(text + "\n")
        (self.folder / f"{self.name}.md").write_text(markdown)

    def show(self) -> None:
        """Print the report and its folder."""
        print(f"\n{(self.folder / f'{self.name}.md').read_text()}\nWritten to {self.folder}")


@contextmanager
def benchmark(module: str, out: Path | None, *, quick: bool = False, name: str | None = None) -> Iterator[Run]:
    """Frame a run: describe the machine, end with one line after Ctrl-C, SIGTERM or a failure, and show the report.

    Servers must be started inside, in a `with` of their own, so that they are stopped by then.

    Args:
        module: the command is `python -m bench.` and this.
        out: folder of the results; None: the one of full or of quick runs.
        quick: whether it is only a look.
        name: of the result files; by default the module's.

    Yields:
        The run.

    Raises:
        typer.Exit: the command was interrupted (130), or a server or an installation failed (1).
    """
    head = machine.describe(f"python -m bench.{module} " + " ".join(sys.argv[1:]))
    run = Run(name or module.replace("_", "-"), out or (QUICK_RESULTS if quick else RESULTS), head)
    if machine.busy():
        say("Something else is using this machine: expect figures that are too low and that vary.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield run
    except KeyboardInterrupt:
        say("\nInterrupted; every server is stopped.")
        raise typer.Exit(130) from None
    except (ServerFailed, InstallFailed, subprocess.CalledProcessError) as error:
        say(f"Stopped: {error}")
        raise typer.Exit(1) from None
    run.show()


def exit_if(broken: Sequence[str]) -> None:
    """End the command with exit code 1 if a promise was broken."""
    if broken:
        raise typer.Exit(1)


def allow_connections() -> None:
    """Raise the limit of open files to the maximum: a thousand streams through the gateway need two thousand."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run_json(command: Sequence[str], *, given: Any = None, env: Mapping[str, str] | None = None) -> Any:
    """Run a module of the benchmarks in a process of its own, with `given` on standard input. Returns its output."""
    program = [sys.executable, "-m", *command]
    made = subprocess.run(program, input=json.dumps(given), cwd=ROOT, env=env, capture_output=True, text=True)
    if made.returncode:
        raise ServerFailed(f"{command[0]} failed:\n{made.stderr[-2000:]}")
    return json.loads(made.stdout)


class Progress:
    """Prints each finished step and the estimated remaining time."""

    def __init__(self, steps: int) -> None:
        self._steps, self._done, self._started = steps, 0, time.monotonic()

    def step(self, text: str) -> None:
        """Count a finished step and print it."""
        self._done += 1
        left = (time.monotonic() - self._started) / self._done * (self._steps - self._done)
        say(f"[{self._done}/{self._steps}, about {left / 60:.0f} min left] {text}")


def rotated(names: Sequence[str], number: int) -> list[str]:
    """Rotate the order for a round, so that each contender comes first equally often."""
    start = number % len(names) if names else 0
    return [*names[start:], *names[:start]]


def interleave(
    rounds: int,
    cells: Mapping[str, Sequence[str]],
    measure: Callable[[str, str, int], Figures],
    into: list[Measurement],
    *,
    after_round: Callable[[int], None] | None = None,
) -> None:
    """Visit each cell of each contender in each round, contender by contender inside a cell, each first in turn.

    Args:
        rounds: visits to each cell.
        cells: cell → contenders that are measured in it.
        measure: called with contender, cell and number of the round; gives the figures.
        into: where measurements are added.
        after_round: called with the number of each round that has ended.
    """
    progress = Progress(rounds * sum(map(len, cells.values())))
    for number in range(rounds):
        for cell, contenders in cells.items():
            for name in rotated(contenders, number):
                figures = measure(name, cell, number)
                into.append(Measurement(name, cell, number, figures))
                shown = [f"{key} {value:.4g}" for key, value in figures.items() if value is not None]
                progress.step(f"round {number + 1}: {name}, {cell}: {', '.join(shown[:3])}")
        if after_round is not None:
            after_round(number)
