"""Makes `precompute.json` and `precompute.md` from measurements. Pure except `write`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import files, machine
from bench.measurements import Measurement, medians, paired
from bench.stats import median_of_present
from bench.tables import number, table

MAX_P95_RATIO = 1.10
"""Target: live p95 with a working worker, divided by that with an idle one."""
MAX_READY_MS = 10.0
"""Target: p50 and p99 of precomputed responses."""
FIGURES = ("p50_ms", "p95_ms", "p99_ms")


@dataclass
class PrecomputeResults:
    """All measurements so far."""

    rate: float
    """Live requests per second."""
    visits: list[Measurement] = field(default_factory=list)
    """Contenders are `working` and `idle`, cells are kinds of requests and `all`."""
    ready: dict[str, float | None] = field(default_factory=dict)
    renewed: list[dict[str, Any]] = field(default_factory=list)
    """Renewals without live load."""
    renewed_beside: dict[str, Any] = field(default_factory=dict)
    """The renewal during live load."""


def as_json(head: Mapping[str, Any], results: PrecomputeResults) -> dict[str, Any]:
    """Collect all results, including the single measurements."""
    document = {
        "machine": dict(head),
        "rate": results.rate,
        "medians": medians(results.visits, largest=["errors"]),
        "working_over_idle": {figure: paired(results.visits, "working", "idle", figure) for figure in FIGURES},
        "ready": results.ready,
        "renewed": results.renewed,
        "renewed_beside_live_load": results.renewed_beside,
        "visits": [asdict(visit) for visit in results.visits],
    }
    return {**document, "broken_promises": missed_targets(document)}


def missed_targets(document: Mapping[str, Any]) -> list[str]:
    """List the targets that were missed, one line each."""
    found = []
    times = document["working_over_idle"]["p95_ms"].get("all")
    if times is None or times >= MAX_P95_RATIO:
        found.append(f"live p95 is {number(times, 3)} times what it is without the worker")
    working = [visit["figures"] for visit in document["visits"] if visit["contender"] == "working"]
    if any(figures.get("computed_per_second") == 0 for figures in working):
        found.append("the worker computed nothing while it was to be at work")
    errors = sum(cell["errors"] or 0 for cells in document["medians"].values() for cell in cells.values())
    if errors:
        found.append(f"{errors:g} requests failed")
    for name in ("p50_ms", "p99_ms"):
        taken = document["ready"].get(name)
        if taken is None or taken >= MAX_READY_MS:
            found.append(f"{name} of answers that lie ready: {number(taken)}")
    share = document["ready"].get("share_ready")
    if share is None or share < 1:
        found.append(f"not all of what was made ready lay ready: {number(share, 3)}")
    if document["ready"].get("errors"):
        found.append(f"{document['ready']['errors']:g} requests for what lies ready failed")
    renewed = [*document["renewed"], document["renewed_beside_live_load"]]
    if not all(one.get("ready") and one.get("counted") for one in renewed):
        found.append("an answer was not made ready anew after a review was added")
    return found


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    broken = document["broken_promises"]
    ready, renewed = document["ready"], document["renewed"]
    share = ready.get("share_ready")
    seconds = median_of_present([one["seconds"] for one in renewed])
    beside = document["renewed_beside_live_load"].get("seconds")
    parts = [
        "# Precomputing",
        machine.line(document["machine"]),
        f"{document['rate']:g} live requests a second, none of them in the cache, while reviews change. The worker "
        "computes all the time, or rests. [How](../README.md#precomputing).",
        table(_rows(document)),
        f"Promised: p95 of live requests less than {MAX_P95_RATIO:g} times that without the worker.",
        f"**An answer that lies ready**, through the gateway: p50 {number(ready.get('p50_ms'), 2)} ms, p99 "
        f"{number(ready.get('p99_ms'), 2)} ms; {number(None if share is None else 100 * share, 1, ' %')} of "
        f"{number(ready.get('requests'), 0)} lay ready.",
        f"**After a review was added** and a round asked for, {number(seconds, 2)} s (median of {len(renewed)}) until "
        f"all that is popular was ready again, with that review in it; beside the live load {number(beside)} s.",
        "Every promise held." if not broken else "Not held:\n\n" + "\n".join(f"- {one}" for one in broken),
    ]
    return "\n\n".join(parts) + "\n"


def _rows(document: Mapping[str, Any]) -> Sequence[Sequence[str]]:
    rows = [["live requests", "worker", "p50 ms", "p95 ms", "p99 ms", "in a phase", "errors", "computed/s", "phases"]]
    summary, times = document["medians"], document["working_over_idle"]
    for kind in summary.get("working", {}):
        for name in ("idle", "working"):
            cell = summary[name][kind]
            figures = [number(cell[figure], 2) for figure in FIGURES]
            counts = [number(cell["requests"], 0), number(cell["errors"], 0), number(cell.get("computed_per_second"))]
            rows.append([kind, name, *figures, *counts, str(cell["rounds"])])
        ratios = [number(times[figure].get(kind), 3, "×") for figure in FIGURES]
        rows.append(["", "median of the rounds' ratios", *ratios, "", "", "", ""])
    return rows


def write(folder: Path, head: Mapping[str, Any], results: PrecomputeResults) -> dict[str, Any]:
    """Write both files. Returns the content of the JSON file."""
    document = as_json(head, results)
    files.write(folder, "precompute", document, as_markdown(document))
    return document
