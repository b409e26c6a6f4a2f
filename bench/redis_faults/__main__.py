"""`python -m bench.redis_faults` (`make bench-redis-faults`): injects faults into Redis under load.

Expected: no request fails, p99 rises by no more than 50 ms, readiness is `degraded` during the fault, and `ok` within
5 s after Redis works again. It is measured with a single server, one with a slow network, Sentinels, and a Cluster.
"""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer
import uvloop

from bench import files, machine
from bench.command import exit_with_failure, orderly_exit, say, start_server
from bench.paths import ROOT
from bench.redis_faults import load, report
from bench.redis_faults.faults import REDIS_SETUPS, RedisFault, RedisSetup
from bench.servers import ContenderServer, python_module

MODELS = ROOT / ".onecard" / "models"
FAULT_MARGIN_SECONDS = 15.0
"""Extra time for injecting and healing a fault: Redis has to start, Sentinels have to agree."""


@dataclass(frozen=True)
class FaultPlan:
    """Seconds of the phases, and requests per second."""

    rate: float
    healthy: float = 4.0
    fault: float = 6.0
    healed: float = 5.0
    warm: float = 4.0
    """Warm-up before the first phase, which fills the cache and opens connections."""

    def requests(self, faults: int) -> int:
        """Compute how many requests all phases of this number of faults need at most."""
        return int(self.rate * (self.warm + faults * (self.healthy + self.fault + self.healed + FAULT_MARGIN_SECONDS)))


def start_services(
    stack: ExitStack, where: Mapping[str, str], llm: ContenderServer, models: Path
) -> list[ContenderServer]:
    """Start the gateway and the sentiment service. They have no memory tier, so that every lookup goes to Redis.

    Args:
        stack: stops the services.
        where: the settings of Redis.
        llm: the running LLM service.
        models: folder with the stand-ins.

    Returns:
        The gateway and the sentiment service.

    Raises:
        ServerFailed: one did not start.
    """
    cache = {**where, "CACHE_MEMORY_MB": "0"}
    on_stand_in = {"MODEL_CACHE_PATH": str(models), "OMP_NUM_THREADS": "1", **cache}
    what = "the sentiment service on the stand-in"
    made = python_module("faults-sentiment", what, "sentiment_service", "SENTIMENT_PORT", on_stand_in)
    sentiment = stack.enter_context(ContenderServer(made))  # Waited for below, so that the gateway starts meanwhile.
    # There are no requests for embeddings and reviews; these URLs only have to be ready.
    urls = {"LLM_URL": llm.url, "EMBEDDING_URL": llm.url, "REVIEW_URL": llm.url, "SENTIMENT_URL": sentiment.url}
    gateway = start_server(
        stack, python_module("faults-gateway", "the gateway", "gateway", "GATEWAY_PORT", {**urls, **cache})
    )
    sentiment.wait_ready()
    return [gateway, sentiment]


async def visit(fault: RedisFault, plan: FaultPlan) -> report.FaultVisit:
    """Run the phases of one fault under load: healthy, fault, healed. Redis is controlled in threads."""
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
    return report.FaultVisit(fault.name, began, broken, settled, healed, time.perf_counter(), fault.may_go_unnoticed)


async def measure(services: list[str], faults: Sequence[RedisFault], plan: FaultPlan) -> list[dict[str, Any]]:
    """Measure faults one after the other under load.

    Args:
        services: URLs. The first gets the requests; the readiness of all is polled.
        faults: the faults.
        plan: lengths of the phases.

    Returns:
        The figures of each fault.
    """
    stop, supply = asyncio.Event(), load.requests(plan.requests(len(faults)), "faults")
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=load.TIMEOUT_SECONDS),
        headers={"content-type": "application/json"},
    )
    async with session:
        sending = asyncio.create_task(load.send(session, services[0], supply, plan.rate, stop))
        watching = asyncio.create_task(load.poll_readiness(session, services, stop))
        visits = []
        try:
            await asyncio.sleep(plan.warm)
            for fault in faults:
                say(f"{fault.name}: {fault.what}")
                visits.append(await visit(fault, plan))
        finally:
            stop.set()
            asked, looks = await asyncio.gather(sending, watching)
    return [report.summarize_fault(one, asked, looks) for one in visits]


def measure_setup(patient: RedisSetup, llm: ContenderServer, models: Path, plan: FaultPlan) -> list[dict[str, Any]]:
    """Start services for one setup of Redis, and measure its faults."""
    with ExitStack() as stack:
        services = start_services(stack, patient.settings, llm, models)
        return uvloop.run(measure([server.url for server in services], patient.faults, plan))


def parse_setups(names: str) -> list[str]:
    """Parse names of setups, separated by commas.

    Args:
        names: the names.

    Returns:
        The names in this order.

    Raises:
        typer.BadParameter: there is no such setup.
    """
    found = names.split(",")
    if not set(found) <= REDIS_SETUPS.keys():
        raise typer.BadParameter(f"'{names}' is not a list of {', '.join(REDIS_SETUPS)} with commas between")
    return found


def main(
    rate: Annotated[float, typer.Option(min=10, max=500, help="Requests a second.")] = 60.0,
    models: Annotated[Path, typer.Option(help="Folder with the stand-ins.")] = MODELS,
    out: Annotated[Path | None, typer.Option(help="Folder for results; bench/results unless --quick.")] = None,
    only: Annotated[str, typer.Option(help="Which forms of Redis.")] = ",".join(REDIS_SETUPS),
    quick: Annotated[bool, typer.Option("--quick", help="A look only: short phases, two minutes.")] = False,
) -> None:
    """Inject faults into Redis under load and write redis-faults.json and .md; exit 1 if a promise did not hold.

    It takes four minutes; nothing else should run meanwhile. Ctrl-C stops all servers.
    """
    head = machine.describe("python -m bench.redis_faults " + " ".join(sys.argv[1:]))
    names = parse_setups(only)
    plan = FaultPlan(rate, healthy=1.0, fault=2.0, healed=3.0) if quick else FaultPlan(rate)
    results: list[dict[str, Any]] = []
    what: dict[str, str] = {}
    with orderly_exit(), ExitStack() as stack:
        llm = start_server(
            stack, python_module("faults-llm", "a canned LLM service", "bench.redis_faults.llm", "CANNED_PORT", {})
        )
        for name in names:
            with REDIS_SETUPS[name]() as patient:
                what |= {fault.name: fault.what for fault in patient.faults}
                results += measure_setup(patient, llm, models.resolve(), plan)
    broken = report.missed_targets(results)
    document = {"machine": head, "rate": rate, "what": what, "faults": results, "broken_promises": broken}
    folder = files.folder_for(out, quick=quick)
    files.write(folder, "redis-faults", document, report.as_markdown(document))
    files.show(folder, "redis-faults")
    if broken:
        exit_with_failure()


if __name__ == "__main__":
    typer.run(main)
