"""`python -m bench.redis_faults` (`make bench-redis-faults`): injects faults into Redis under load.

Expected: no request fails, p99 rises by no more than 50 ms, readiness is `degraded` during the fault, and `ok` within
5 s after Redis works again. It is measured with a single server, one with a slow network, Sentinels, and a Cluster.
"""

import asyncio
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import uvloop

from bench import texts, weights
from bench.canned import MODEL, PATH
from bench.clients import HttpLoadClient, HttpResponse, get_request, json_request, open_loop, status_failure
from bench.command import MODELS, Out, Quick, benchmark, exit_if, parse_names, say
from bench.redis_faults import report
from bench.redis_faults.faults import REDIS_SETUPS, RedisFault
from bench.redis_faults.report import FaultVisit, ReadinessSample
from bench.servers import Servers

FAULT_MARGIN_SECONDS = 15.0
"""Extra time for injecting and healing a fault: Redis has to start, Sentinels have to agree."""
KNOWN_TEXTS = 60
"""Number of texts that are repeated."""
REPEATED_SHARE = 0.5
"""Share of requests about repeated texts; the others are about new ones."""
POLL_SECONDS = 0.05
"""Time between two polls of readiness."""


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


def requests(count: int, seed: str) -> Iterator[bytes]:
    """Prepare sentiments, chats and streams in turn, a share of `REPEATED_SHARE` about repeated texts."""
    rng, reviews = random.Random(seed), weights.reviews()
    known = texts.make(reviews, KNOWN_TEXTS, seed=f"{seed}, known")
    new = iter(texts.make(reviews, count, seed=f"{seed}, new"))
    for number in range(count):
        text = rng.choice(known) if rng.random() < REPEATED_SHARE else next(new)
        if number % 3 == 0:
            yield json_request("/v1/sentiment", {"input": text})
        else:
            chat = {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0}
            yield json_request(PATH, {**chat, "stream": number % 3 == 2})


def failure(answer: HttpResponse) -> str | None:
    """Count errors, and streams that were cut off."""
    torn = answer.headers.get("content-type", "").startswith("text/event-stream") and b"data: [DONE]" not in answer.body
    return "cut off" if torn else status_failure(answer)


async def poll_readiness(url: str, stop: asyncio.Event) -> list[ReadinessSample]:
    """Poll the readiness of a service until `stop` is set: its status, or `silent` without a response."""
    looks: list[ReadinessSample] = []
    async with HttpLoadClient(url) as client:
        while not stop.is_set():
            try:
                said = str(json.loads((await client.send(get_request("/health/ready"))).body)["status"])
            except (OSError, ValueError, KeyError):
                said = "silent"
            looks.append(ReadinessSample(time.perf_counter(), said))
            await asyncio.sleep(POLL_SECONDS)
    return looks


async def visit(fault: RedisFault, plan: FaultPlan) -> FaultVisit:
    """Run the phases of one fault under load: healthy, fault, healed. Redis is controlled in threads."""
    say(f"{fault.name}: {fault.what}")
    began = time.perf_counter()
    await asyncio.sleep(plan.healthy)
    broken = time.perf_counter()
    await asyncio.to_thread(fault.inject)
    healed = None
    if fault.momentary:
        await asyncio.to_thread(fault.recover)
        healed = time.perf_counter()
    await asyncio.sleep(broken + plan.fault - time.perf_counter())
    settled = time.perf_counter()
    if healed is None:
        await asyncio.to_thread(fault.recover)
        healed = time.perf_counter()
    await asyncio.sleep(plan.healed)
    return FaultVisit(fault.name, began, broken, settled, healed, time.perf_counter(), fault.may_go_unnoticed)


async def measure(services: list[str], faults: Sequence[RedisFault], plan: FaultPlan) -> list[dict[str, Any]]:
    """Measure faults one after the other under load on the first of `services`; readiness is polled of all."""
    stop, supply = asyncio.Event(), requests(plan.requests(len(faults)), "faults")
    loading = asyncio.create_task(open_loop(services[0], supply, rate=plan.rate, check=failure, stop=stop))
    watching = [asyncio.create_task(poll_readiness(url, stop)) for url in services]
    try:
        await asyncio.sleep(plan.warm)
        visits = [await visit(fault, plan) for fault in faults]
    finally:
        stop.set()
        tally, looks = await loading, await asyncio.gather(*watching)
    return [report.summarize_fault(one, tally.answers, looks) for one in visits]


def start_services(servers: Servers, where: Mapping[str, str]) -> list[str]:
    """Start the gateway and the sentiment service, without a memory tier: every look-up goes to Redis."""
    cache = {**where, "CACHE_MEMORY_MB": "0"}
    llm = servers.start_canned_llm().address
    sentiment = servers.start_service(
        "sentiment", {"MODEL_CACHE_PATH": str(MODELS), "OMP_NUM_THREADS": "1", **cache}, "a sentiment stand-in"
    )
    # There are no requests for embeddings and reviews; these URLs only have to be ready.
    gateway = servers.start_service("gateway", {"EMBEDDING_URL": llm, "REVIEW_URL": llm, **cache})
    return [gateway.url, sentiment.url]


async def measure_setup(name: str, plan: FaultPlan) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Start services for one setup of Redis. Returns what its faults are, and the figures of each."""
    async with REDIS_SETUPS[name]() as patient:
        with Servers("faults-") as servers:
            services = await asyncio.to_thread(start_services, servers, patient.settings)
            found = await measure(services, patient.faults, plan)
        return {fault.name: fault.what for fault in patient.faults}, found


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
        broken = report.missed_targets(results)
        document = {"machine": run.head, "rate": plan.rate, "what": what, "faults": results, "broken_promises": broken}
        run.write(document, report.as_markdown(document))
    exit_if(broken)


if __name__ == "__main__":
    typer.run(main)
