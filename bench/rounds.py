"""Measures the encoders in rounds over contenders and cells, one server at a time."""

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.request import Request, urlopen

from bench.command import Progress, rotated, run_json
from bench.load import LoadCell, LoadSpec, body
from bench.memory import PeakMemory
from bench.servers import ContenderServer, ServerFailed, environment
from bench.workload import SHORT, Workload

OFFLINE = "offline"
"""Name of the bare model among the contenders."""


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

    cells: list[dict[str, Any]] = field(default_factory=list)
    """A cell of a contender in a round each, as `measure` returns it."""
    offline: list[dict[str, Any]] = field(default_factory=list)
    """What `bench.offline` prints, with the round."""


def checked_cosine(server: ContenderServer, workload: Workload, number: int) -> float:
    """Request the vector of a checked text, chosen by `number`, and compare it with the bare model's in FP32."""
    texts, reference = workload.checked_texts(), json.loads(workload.reference.read_bytes())
    index = number % len(texts)
    asked = body([texts[index]], server.contender.model)
    request = Request(server.url, data=asked, headers={"content-type": "application/json"})
    try:
        with urlopen(request, timeout=60) as response:
            (item,) = json.load(response)["data"]
        # Little-endian float32 numbers.
        return cosine(memoryview(base64.b64decode(item["embedding"])).cast("f").tolist(), reference[index])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ServerFailed(f"{server.contender.name}: its answer is no vector: {error!r}") from error


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Compute the cosine of two vectors; a ValueError if their lengths differ, or one is zero or not finite."""
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    lengths = math.hypot(*one) * math.hypot(*other)
    if not lengths or not math.isfinite(dot):
        raise ValueError("zero or not finite")
    return dot / lengths


def run_load(job: LoadSpec) -> dict[str, Any]:
    """Run the load of one cell in a process of its own."""
    found: dict[str, Any] = run_json(["bench.load"], given=asdict(job))
    return found


def warm_up(server: ContenderServer, workload: Workload) -> None:
    """Load a server for two seconds, without measuring."""
    for cell in (LoadCell(texts=1, clients=4), LoadCell(texts=32, clients=1)):
        seed = f"warm-up {cell.key}"
        run_load(LoadSpec(server.url, server.contender.model, cell, 1.0, 60.0, seed, workload.name))


def measure(server: ContenderServer, cell: LoadCell, number: int, schedule: EncoderSchedule) -> dict[str, Any]:
    """Measure one cell of one contender. Restarts a server that did not finish in time."""
    seed, limits = f"round {number} {cell.key}", (schedule.seconds, schedule.limit_seconds)
    job = LoadSpec(server.url, server.contender.model, cell, *limits, seed, schedule.workload.name)
    with PeakMemory(server.pid) as watch:
        outcome = run_load(job)
    if outcome["unfinished"]:
        server.restart()
    rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in outcome.items()}
    cosine_to_fp32 = checked_cosine(server, schedule.workload, number + cell.clients + cell.texts)
    return {
        "contender": server.contender.name,
        "round": number,
        **asdict(cell),
        **rounded,
        "peak_rss_mb": round(watch.peak_mb, 1),
        "cosine_to_fp32": round(cosine_to_fp32, 6),
    }


def run(
    servers: Mapping[str, ContenderServer], schedule: EncoderSchedule, after_round: Callable[[EncoderResults], None]
) -> None:
    """Run all rounds; `after_round` gets the results so far, so that an interrupted run keeps its complete rounds."""
    results = EncoderResults()
    progress = Progress(sum(len(servers) * len(schedule.cells_of(each)) + 1 for each in range(schedule.rounds)))
    for number in range(schedule.rounds):
        for name in rotated([*servers, OFFLINE], number):
            if name == OFFLINE:
                command = ["bench.offline", schedule.workload.name, str(schedule.seconds), f"round {number}"]
                found = run_json(command, env=environment())
                results.offline += [{"round": number, **figures} for figures in found]
                progress.step(f"round {number + 1}: bare model, offline")
                continue
            for cell in schedule.cells_of(number):
                made = measure(servers[name], cell, number, schedule)
                results.cells.append(made)
                progress.step(f"round {number + 1}: {name}, {line(cell, made)}")
        after_round(results)


def line(cell: LoadCell, made: Mapping[str, Any]) -> str:
    """Render one cell for the screen."""
    p50 = "-" if made["p50_ms"] is None else f"{made['p50_ms']:.0f} ms"
    troubles = f", errors {made['errors']}" if made["errors"] else ""
    troubles += f", {made['unfinished']} requests unfinished" if made["unfinished"] else ""
    return f"{cell.clients} × {cell.texts}: {made['texts_per_second']:.1f} texts/s, p50 {p50}{troubles}"
