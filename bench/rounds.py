"""Measures in rounds over contenders and cells, one server at a time."""

import base64
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.request import Request, urlopen

from bench import load
from bench.cells import CellMeasurement, LoadCell, LoadOutcome, LoadSpec
from bench.memory import PeakMemory
from bench.paths import ROOT
from bench.servers import ContenderServer, ServerFailed, environment
from bench.workload import SHORT, Workload

OFFLINE = "offline"
"""Name of the bare model among the contenders."""
Reporter = Callable[[str], None]


@dataclass(frozen=True)
class EncoderSchedule:
    """Numbers of rounds, cells, and their length."""

    rounds: int
    heavy_rounds: int
    """Rounds in which heavy cells are measured too."""
    seconds: float
    """How long requests are started in one cell."""
    limit_seconds: float
    """Timeout of one cell, including the wait for the last responses."""
    cells: Sequence[LoadCell]
    workload: Workload = SHORT

    def cells_of(self, number: int) -> list[LoadCell]:
        """List the cells of a round; rounds count from 0."""
        return [cell for cell in self.cells if number < self.heavy_rounds or not cell.heavy]


@dataclass
class EncoderResults:
    """All measurements so far."""

    cells: list[CellMeasurement] = field(default_factory=list)
    offline: list[dict[str, Any]] = field(default_factory=list)
    """`OfflineResult` as JSON, with the round."""


def rotated(names: Sequence[str], number: int) -> list[str]:
    """Rotate the order for a round, so that each contender comes first equally often."""
    start = number % len(names)
    return [*names[start:], *names[:start]]


def checked_cosine(server: ContenderServer, workload: Workload, number: int) -> float:
    """Request the vector of one of the checked texts and compare it with that of the bare model in FP32.

    Args:
        server: the server.
        workload: of the run.
        number: selects the text.

    Returns:
        The cosine of the two vectors.

    Raises:
        ServerFailed: the response is not one vector of the right length.
    """
    from bench.offline import reference_texts

    texts, reference = reference_texts(workload), json.loads(workload.reference.read_bytes())
    index = number % len(texts)
    body = load.body([texts[index]], server.contender.model)
    request = Request(server.url, data=body, headers={"content-type": "application/json"})
    try:
        with urlopen(request, timeout=60) as response:
            answer = json.load(response)
        (item,) = answer["data"]
        return cosine(decode(item["embedding"]), reference[index])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ServerFailed(f"{server.contender.name}: its answer is no vector: {error!r}") from error


def decode(encoded: str) -> Sequence[float]:
    """Decode little-endian float32 numbers in base64."""
    return memoryview(base64.b64decode(encoded)).cast("f").tolist()


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Compute the cosine of two vectors.

    Args:
        one: a vector.
        other: a vector of the same length.

    Returns:
        The cosine, -1 to 1.

    Raises:
        ValueError: their lengths differ, or one is zero or not finite.
    """
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    lengths = math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other))
    if not lengths or not math.isfinite(dot):
        raise ValueError("zero or not finite")
    return dot / lengths


def run_load(job: LoadSpec) -> LoadOutcome:
    """Run the load of one cell in a process of its own."""
    command = [sys.executable, "-m", "bench.load"]
    made = subprocess.run(command, input=json.dumps(asdict(job)), cwd=ROOT, capture_output=True, text=True)
    if made.returncode:
        raise ServerFailed(f"the load generator failed:\n{made.stderr[-2000:]}")
    return LoadOutcome(**json.loads(made.stdout))


def warm_up(server: ContenderServer, workload: Workload) -> None:
    """Load a server for two seconds, without measuring."""
    for cell in (LoadCell(texts=1, clients=4), LoadCell(texts=32, clients=1)):
        seed = f"warm-up {cell.key}"
        run_load(LoadSpec(server.url, server.contender.model, cell, 1.0, 60.0, seed, workload.name))


def measure(server: ContenderServer, cell: LoadCell, number: int, schedule: EncoderSchedule) -> CellMeasurement:
    """Measure one cell of one contender. Restarts a server that did not finish in time."""
    job = LoadSpec(
        server.url,
        server.contender.model,
        cell,
        schedule.seconds,
        schedule.limit_seconds,
        f"round {number} {cell.key}",
        schedule.workload.name,
    )
    with PeakMemory(server.pid) as watch:
        outcome = run_load(job)
    if outcome.unfinished:
        server.restart()
    cosine_to_fp32 = checked_cosine(server, schedule.workload, number + cell.clients + cell.texts)
    return CellMeasurement(server.contender.name, number, cell, outcome, watch.peak_bytes / 1e6, cosine_to_fp32)


def measure_offline(workload: Workload, number: int, seconds: float) -> list[dict[str, Any]]:
    """Measure the bare model in a process of its own."""
    command = [sys.executable, "-m", "bench.offline", workload.name, str(seconds), f"round {number}"]
    made = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    if made.returncode:
        raise ServerFailed(f"the offline measurement failed:\n{made.stderr[-2000:]}")
    return [{"round": number, **figures} for figures in json.loads(made.stdout)]


class RoundProgress:
    """Prints each finished step and the estimated remaining time."""

    def __init__(self, steps: int, say: Reporter) -> None:
        self._steps, self._say, self._done = steps, say, 0
        self._started = time.monotonic()

    def step(self, text: str) -> None:
        """Count a finished step and print it."""
        self._done += 1
        spent = time.monotonic() - self._started
        left = spent / self._done * (self._steps - self._done)
        self._say(f"[{self._done}/{self._steps}, about {left / 60:.0f} min left] {text}")


def run(
    servers: dict[str, ContenderServer],
    schedule: EncoderSchedule,
    *,
    say: Reporter,
    after_round: Callable[[EncoderResults], None],
) -> EncoderResults:
    """Run all rounds.

    Args:
        servers: running servers by name.
        schedule: how much to measure.
        say: prints a line of progress.
        after_round: called with the results after each round, so that an interrupted run keeps its complete rounds.

    Returns:
        All results.
    """
    names = [*servers, OFFLINE]
    results = EncoderResults()
    steps = sum(len(servers) * len(schedule.cells_of(number)) + 1 for number in range(schedule.rounds))
    progress = RoundProgress(steps, say)
    for number in range(schedule.rounds):
        for name in rotated(names, number):
            if name == OFFLINE:
                results.offline += measure_offline(schedule.workload, number, schedule.seconds)
                progress.step(f"round {number + 1}: bare model, offline")
                continue
            for cell in schedule.cells_of(number):
                made = measure(servers[name], cell, number, schedule)
                results.cells.append(made)
                progress.step(f"round {number + 1}: {name}, {line(made)}")
        after_round(results)
    return results


def line(made: CellMeasurement) -> str:
    """Render one cell for the screen."""
    outcome = made.outcome
    p50 = "-" if outcome.p50_ms is None else f"{outcome.p50_ms:.0f} ms"
    troubles = f", errors {outcome.errors}" if outcome.errors else ""
    troubles += f", {outcome.unfinished} requests unfinished" if outcome.unfinished else ""
    load_text = f"{made.cell.clients} × {made.cell.texts}"
    return f"{load_text}: {outcome.texts_per_second:.1f} texts/s, p50 {p50}{troubles}"
