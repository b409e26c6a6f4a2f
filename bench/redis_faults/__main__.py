"""`python -m bench.redis_faults` (`make bench-redis-faults`): injects faults into Redis under load.

Expected: no request fails, and p99 rises by no more than 50 ms. It is measured with a single server, one with a slow
network, Sentinels, and a Cluster. What readiness says meanwhile is for the tests.
"""

import asyncio
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, NamedTuple

import typer
import uvloop

from bench import machine, texts, weights
from bench.canned import MODEL, PATH
from bench.clients import Answer, HttpResponse, json_request, open_loop, status_failure
from bench.command import MODELS, Out, Quick, benchmark, exit_if, parse_names, say
from bench.measurements import percentiles, ratio
from bench.redis_faults.faults import REDIS_SETUPS, RedisFault
from bench.servers import Servers
from bench.tables import bullets, number, page, percent, table, verdict

PHASES = ("healthy", "fault", "healed")
MAX_ADDED_MS = 50.0
"""Target: p99 of a phase minus that of the healthy phase before it."""
FAULT_MARGIN_SECONDS = 15.0
"""Extra time for injecting and healing a fault: Redis has to start, Sentinels have to agree."""
KNOWN_TEXTS = 60
"""Number of texts that are repeated."""
REPEATED_SHARE = 0.5
"""Share of requests about repeated texts; the others are about new ones."""


@dataclass(frozen=True)
class FaultPlan:
    """Seconds of the phases, and requests per second."""

    rate: float = 60.0
    healthy: float = 4.0
    fault: float = 6.0
    healed: float = 5.0
    warm: float = 4.0
    """Warm-up before the first phase, which fills the cache and opens connections."""

    def requests(self, faults: int) -> int:
        """Compute how many requests all phases of this number of faults need at most."""
        return int(self.rate * (self.warm + faults * (self.healthy + self.fault + self.healed + FAULT_MARGIN_SECONDS)))


class FaultVisit(NamedTuple):
    """Times of one fault's phases, on the clock of the answers."""

    fault: str
    started: float
    broken: float
    """Just before the fault was injected."""
    settled: float
    """End of the fault's phase: before healing, unless the fault is momentary."""
    ended: float


def requests(count: int, seed: str) -> Iterator[bytes]:
    """Prepare sentiments, chats and streams in turn, a share of `REPEATED_SHARE` about repeated texts."""
    rng, reviews = random.Random(seed), weights.reviews()
    known = texts.make(reviews, KNOWN_TEXTS, seed=f"{seed}, known")
    new = iter(texts.make(reviews, count, seed=f"{seed}, new"))
    for place in range(count):
        text = rng.choice(known) if rng.random() < REPEATED_SHARE else next(new)
        if place % 3 == 0:
            yield json_request("/v1/sentiment", {"input": text})
        else:
            chat = {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0}
            yield json_request(PATH, {**chat, "stream": place % 3 == 2})


def failure(answer: HttpResponse) -> str | None:
    """Count errors, and streams that were cut off."""
    torn = answer.headers.get("content-type", "").startswith("text/event-stream") and b"data: [DONE]" not in answer.body
    return "cut off" if torn else status_failure(answer)


async def visit(fault: RedisFault, plan: FaultPlan) -> FaultVisit:
    """Run the phases of one fault under load: healthy, fault, healed. Redis is controlled in threads."""
    say(f"{fault.name}: {fault.what}")
    started = time.perf_counter()
    await asyncio.sleep(plan.healthy)
    broken = time.perf_counter()
    await asyncio.to_thread(fault.inject)
    if fault.momentary:
        await asyncio.to_thread(fault.recover)
    await asyncio.sleep(broken + plan.fault - time.perf_counter())
    settled = time.perf_counter()
    if not fault.momentary:
        await asyncio.to_thread(fault.recover)
    await asyncio.sleep(plan.healed)
    return FaultVisit(fault.name, started, broken, settled, time.perf_counter())


async def measure(gateway: str, faults: Sequence[RedisFault], plan: FaultPlan) -> list[dict[str, Any]]:
    """Measure faults one after the other under load on the gateway. Returns the figures of each."""
    stop, supply = asyncio.Event(), requests(plan.requests(len(faults)), "faults")
    loading = asyncio.create_task(open_loop(gateway, supply, rate=plan.rate, check=failure, stop=stop))
    try:
        await asyncio.sleep(plan.warm)
        visits = [await visit(fault, plan) for fault in faults]
    finally:
        stop.set()
        tally = await loading
    return [summarize_fault(one, tally.answers) for one in visits]


def start_services(servers: Servers, where: Mapping[str, str]) -> str:
    """Start the sentiment service and the gateway, without a memory tier: every look-up goes to Redis."""
    cache = {**where, "CACHE_MEMORY_MB": "0"}
    llm = servers.start_canned_llm().address
    servers.start_service("sentiment", {"MODEL_CACHE_PATH": str(MODELS), "OMP_NUM_THREADS": "1", **cache})
    # There are no requests for embeddings and reviews; these URLs only have to be ready.
    return servers.start_service("gateway", {"EMBEDDING_URL": llm, "REVIEW_URL": llm, **cache}).url


async def measure_setup(name: str, plan: FaultPlan) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Start services for one setup of Redis. Returns what its faults are, and the figures of each."""
    async with REDIS_SETUPS[name]() as patient:
        with Servers("faults-") as servers:
            gateway = await asyncio.to_thread(start_services, servers, patient.settings)
            found = await measure(gateway, patient.faults, plan)
        return {fault.name: fault.what for fault in patient.faults}, found


def summarize_fault(visited: FaultVisit, answers: Sequence[Answer]) -> dict[str, Any]:
    """Summarise the phases of one fault. A request in flight when the fault began counts for the fault."""
    phases: dict[str, dict[str, Any]] = {}
    for name, (begin, end) in zip(PHASES, pairwise(visited[1:]), strict=True):
        inside = [one for one in answers if begin <= one.ended < end]
        latencies, reasons = [one.latency_ms for one in inside], [one.failure for one in inside if one.failure]
        phases[name] = {
            "requests": len(inside),
            "failures": len(reasons),
            "reasons": sorted(set(reasons)),
            "hits": ratio(sum(one.cache == "hit" for one in inside), len(inside)),
            **percentiles(latencies, 50, 99),
            "max_ms": max(latencies, default=None),
        }
        p99, healthy = phases[name]["p99_ms"], phases["healthy"]["p99_ms"]
        phases[name]["p99_added_ms"] = None if p99 is None or healthy is None else p99 - healthy
    return {"fault": visited.fault, "phases": phases}


def missed_targets(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the targets that were missed, one line each."""
    found = []
    for made in results:
        for name, phase in made["phases"].items():
            if phase["failures"] or not phase["requests"]:
                found.append(f"{made['fault']}, {name}: {phase['failures']} of {phase['requests']} requests failed")
            if (phase["p99_added_ms"] or 0) > MAX_ADDED_MS:
                found.append(f"{made['fault']}, {name}: p99 is {phase['p99_added_ms']:.0f} ms over the healthy one")
    return found


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    rows = [["phase", "requests", "failures", "hits", "p50 ms", "p99 ms", "max ms", "p99 added ms"]]
    for made in document["faults"]:
        for name, phase in made["phases"].items():
            times = [number(phase[figure]) for figure in ("p50_ms", "p99_ms", "max_ms", "p99_added_ms")]
            counts = [str(phase["requests"]), str(phase["failures"]), percent(phase["hits"])]
            rows.append([f"{made['fault']}: {name}", *counts, *times])
    return page(
        "# A sick Redis under load",
        machine.line(document["machine"]),
        f"{document['rate']:g} requests a second, whoever is still waiting. [How](../README.md#a-sick-redis).",
        bullets(document["what"]),
        verdict(document["broken_promises"]),
        table(rows),
    )


def main(
    only: Annotated[str, typer.Option(help="Which forms of Redis.")] = ",".join(REDIS_SETUPS),
    out: Out = None,
    quick: Quick = False,
) -> None:
    """Inject faults into Redis under load and write redis-faults.json and .md; exit 1 if a promise did not hold.

    It takes four minutes; nothing else should run meanwhile. Ctrl-C stops all servers.
    """
    names = parse_names(only, [*REDIS_SETUPS])
    plan = FaultPlan(healthy=1.0, fault=2.0, healed=3.0) if quick else FaultPlan()
    what: dict[str, str] = {}
    results: list[dict[str, Any]] = []
    with benchmark("redis_faults", out, quick=quick) as run:
        for name in names:
            described, found = uvloop.run(measure_setup(name, plan))
            what |= described
            results += found
        broken = missed_targets(results)
        document = {"machine": run.head, "rate": plan.rate, "what": what, "faults": results, "broken_promises": broken}
        run.write(document, as_markdown(document))
    exit_if(broken)


if __name__ == "__main__":
    typer.run(main)
