"""Makes `redis-faults.json` and `redis-faults.md` from results and readiness samples. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from bench import machine
from bench.redis_faults.load import ReadinessSample, RequestResult
from bench.stats import percentile, ratio
from bench.tables import number, table

PHASES = ("healthy", "fault", "healed")
MAX_ADDED_MS = 50.0
"""Target: p99 of a phase minus that of the healthy phase before it."""
MAX_RECOVERY_SECONDS = 5.0
"""Target: time from healing until readiness is ok."""


@dataclass(frozen=True)
class FaultVisit:
    """Times of one fault's phases, on the clock of the results."""

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

    def phase(self, name: str) -> tuple[float, float]:
        """Return the start and the end of one of `PHASES`."""
        marks = (self.started, self.broken, self.settled, self.ended)
        at = PHASES.index(name)
        return marks[at], marks[at + 1]


def figures(asked: Sequence[RequestResult], begin: float, end: float) -> dict[str, Any]:
    """Summarise the requests that ended in a time. One in flight when the fault began counts for the fault."""
    inside = [one for one in asked if begin <= one.ended < end]
    latencies = [one.latency_ms for one in inside]
    return {
        "requests": len(inside),
        "failures": sum(one.failure is not None for one in inside),
        "reasons": sorted({one.failure for one in inside if one.failure is not None}),
        "hits": ratio(sum(one.hit for one in inside), len(inside)),
        "p50_ms": percentile(latencies, 0.5),
        "p99_ms": percentile(latencies, 0.99),
        "max_ms": max(latencies, default=None),
    }


def seconds_until_status(
    status: str, services: Sequence[Sequence[ReadinessSample]], since: float, until: float
) -> float | None:
    """Compute the seconds from `since` until every service has reported `status`; None if not before `until`."""
    return _latest_delay(
        [next((look.at for look in _within(looks, since, until) if look.status == status), None) for looks in services],
        since,
    )


def seconds_until_ok(services: Sequence[Sequence[ReadinessSample]], since: float, until: float) -> float | None:
    """Compute the seconds from `since` until every service stays ok up to `until`; None if one does not."""
    return _latest_delay([_stable_since(_within(looks, since, until)) for looks in services], since)


def _within(looks: Sequence[ReadinessSample], since: float, until: float) -> list[ReadinessSample]:
    return [look for look in looks if since <= look.at < until]


def _stable_since(looks: Sequence[ReadinessSample]) -> float | None:
    ok = list(takewhile(lambda look: look.status == "ok", reversed(looks)))
    return ok[-1].at if ok else None


def _latest_delay(times: Sequence[float | None], since: float) -> float | None:
    there = [at for at in times if at is not None]
    return max(there) - since if there and len(there) == len(times) else None


def summarize_fault(
    visit: FaultVisit, asked: Sequence[RequestResult], services: Sequence[Sequence[ReadinessSample]]
) -> dict[str, Any]:
    """Summarise one fault."""
    phases = {name: figures(asked, *visit.phase(name)) for name in PHASES}
    for name in PHASES[1:]:
        phases[name]["p99_added_ms"] = _added(phases[name]["p99_ms"], phases["healthy"]["p99_ms"])
    return {
        "fault": visit.fault,
        "unseen": visit.may_go_unnoticed,
        "phases": phases,
        "seconds_until_degraded": seconds_until_status("degraded", services, visit.broken, visit.settled),
        "seconds_until_ok": seconds_until_ok(services, visit.healed, visit.ended),
    }


def _added(value: float | None, healthy: float | None) -> float | None:
    return None if value is None or healthy is None else value - healthy


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
    head, results = document["machine"], document["faults"]
    lines = [f"- **{name}**: {what}" for name, what in document["what"].items()]
    promises = document["broken_promises"]
    verdict = "Every promise held." if not promises else "Not held:\n\n" + "\n".join(f"- {one}" for one in promises)
    parts = [
        "# A sick Redis under load",
        machine.line(head),
        f"{document['rate']:g} requests a second, whoever is still waiting. [How](../README.md#a-sick-redis).",
        "\n".join(lines),
        table(_case_rows(results)),
        verdict,
        "## Each phase",
        table(_phase_rows(results)),
    ]
    return "\n\n".join(parts) + "\n"


def _phase_rows(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["phase", "requests", "failures", "hits %", "p50 ms", "p99 ms", "max ms", "p99 added ms"]]
    for made in results:
        for name, phase in made["phases"].items():
            hits = None if phase["hits"] is None else phase["hits"] * 100
            times = [number(phase[figure]) for figure in ("p50_ms", "p99_ms", "max_ms")]
            counts = [str(phase["requests"]), str(phase["failures"]), number(hits, 0)]
            rows.append([f"{made['fault']}: {name}", *counts, *times, number(phase.get("p99_added_ms"))])
    return rows


def _case_rows(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    times = ["healthy p50 ms", "ill p50 ms", "healthy p99 ms", "ill p99 ms", "p99 added ms"]
    rows = [["case", "requests", "failures", *times, "degraded after s", "ok after s"]]
    for made in results:
        phases = made["phases"]
        counts = [str(sum(phase[name] for phase in phases.values())) for name in ("requests", "failures")]
        latencies = [phases[name][figure] for figure in ("p50_ms", "p99_ms") for name in ("healthy", "fault")]
        seconds = [number(made[name], 2) for name in ("seconds_until_degraded", "seconds_until_ok")]
        added = phases["fault"]["p99_added_ms"]
        rows.append([made["fault"], *counts, *map(number, [*latencies, added]), *seconds])
    return rows
