"""Makes `redis-faults.json` and `redis-faults.md` from answers and samples of readiness. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

from bench import machine
from bench.clients import Answer
from bench.measurements import percentiles, ratio
from bench.tables import bullets, number, page, table, verdict

PHASES = ("healthy", "fault", "healed")
MAX_ADDED_MS = 50.0
"""Target: p99 of a phase minus that of the healthy phase before it."""
MAX_RECOVERY_SECONDS = 5.0
"""Target: time from healing until readiness is ok."""


class ReadinessSample(NamedTuple):
    """Readiness of a service at one time."""

    at: float
    """Clock at the response."""
    status: str
    """`ok`, `degraded`, `down`, or `silent`."""


Looks = Sequence[Sequence[ReadinessSample]]
"""Samples of each service."""


@dataclass(frozen=True)
class FaultVisit:
    """Times of one fault's phases, on the clock of the answers."""

    fault: str
    started: float
    """Start of the healthy phase."""
    broken: float
    """Time just before the fault was injected."""
    settled: float
    """End of the fault's phase: before healing, unless the fault is momentary."""
    healed: float
    """Time when Redis could work again."""
    ended: float
    may_go_unnoticed: bool = False
    """It may have been over before a service noticed it."""

    def phases(self) -> dict[str, tuple[float, float]]:
        """The start and the end of each of `PHASES`."""
        marks = (self.started, self.broken, self.settled, self.ended)
        return dict(zip(PHASES, pairwise(marks), strict=True))


def figures(answers: Sequence[Answer], begin: float, end: float) -> dict[str, Any]:
    """Summarise the requests that ended in a time. One in flight when the fault began counts for the fault."""
    inside = [one for one in answers if begin <= one.ended < end]
    latencies = [one.latency_ms for one in inside]
    return {
        "requests": len(inside),
        "failures": sum(one.failure is not None for one in inside),
        "reasons": sorted({one.failure for one in inside if one.failure is not None}),
        "hits": ratio(sum(one.cache == "hit" for one in inside), len(inside)),
        **percentiles(latencies, 50, 99),
        "max_ms": max(latencies, default=None),
    }


def seconds_until(status: str, services: Looks, since: float, until: float, *, to_stay: bool = False) -> float | None:
    """Compute the seconds from `since` until every service has said `status`, or says nothing else; None if not."""
    times: list[float] = []
    for looks in services:
        said = [look for look in looks if since <= look.at < until]
        if to_stay:
            said = list(takewhile(lambda look: look.status == status, reversed(said)))[-1:]
        first = next((look.at for look in said if look.status == status), None)
        if first is None:
            return None
        times.append(first)
    return max(times) - since


def summarize_fault(visit: FaultVisit, answers: Sequence[Answer], services: Looks) -> dict[str, Any]:
    """Summarise one fault."""
    phases = {name: figures(answers, *span) for name, span in visit.phases().items()}
    healthy = phases["healthy"]["p99_ms"]
    for name in PHASES[1:]:
        p99 = phases[name]["p99_ms"]
        phases[name]["p99_added_ms"] = None if p99 is None or healthy is None else p99 - healthy
    return {
        "fault": visit.fault,
        "unseen": visit.may_go_unnoticed,
        "phases": phases,
        "seconds_until_degraded": seconds_until("degraded", services, visit.broken, visit.settled),
        "seconds_until_ok": seconds_until("ok", services, visit.healed, visit.ended, to_stay=True),
    }


def missed_targets(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the targets that were missed, one line each."""
    found = []
    for made in results:
        for name, phase in made["phases"].items():
            if phase["failures"] or not phase["requests"]:
                found.append(f"{made['fault']}, {name}: {phase['failures']} of {phase['requests']} requests failed")
            added = phase.get("p99_added_ms")
            if added is not None and added > MAX_ADDED_MS:
                found.append(f"{made['fault']}, {name}: p99 is {added:.0f} ms over the healthy one")
        if made["seconds_until_degraded"] is None and not made["unseen"]:
            found.append(f"{made['fault']}: readiness did not say degraded")
        after = made["seconds_until_ok"]
        if after is None or after > MAX_RECOVERY_SECONDS:
            found.append(f"{made['fault']}: readiness was not ok {MAX_RECOVERY_SECONDS:g} s after healing")
    return found


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    times = ["healthy p50 ms", "ill p50 ms", "healthy p99 ms", "ill p99 ms", "p99 added ms"]
    cases = [["case", "requests", "failures", *times, "degraded after s", "ok after s"]]
    rows = [["phase", "requests", "failures", "hits %", "p50 ms", "p99 ms", "max ms", "p99 added ms"]]
    for made in document["faults"]:
        phases = made["phases"]
        counts = [str(sum(phase[name] for phase in phases.values())) for name in ("requests", "failures")]
        latencies = [phases[name][figure] for figure in ("p50_ms", "p99_ms") for name in ("healthy", "fault")]
        seconds = [number(made[name], 2) for name in ("seconds_until_degraded", "seconds_until_ok")]
        cases.append([made["fault"], *counts, *map(number, [*latencies, phases["fault"]["p99_added_ms"]]), *seconds])
        for name, phase in phases.items():
            hits = None if phase["hits"] is None else phase["hits"] * 100
            shown = [number(phase.get(figure)) for figure in ("p50_ms", "p99_ms", "max_ms", "p99_added_ms")]
            row = [f"{made['fault']}: {name}", str(phase["requests"]), str(phase["failures"]), number(hits, 0)]
            rows.append([*row, *shown])
    return page(
        "# A sick Redis under load",
        machine.line(document["machine"]),
        f"{document['rate']:g} requests a second, whoever is still waiting. [How](../README.md#a-sick-redis).",
        bullets(document["what"]),
        table(cases),
        verdict(document["broken_promises"]),
        "## Each phase",
        table(rows),
    )
