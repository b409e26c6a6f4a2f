"""`python -m bench.redis_faults`, which is `make bench-redis-faults`: Redis falls sick under load, in several ways.

What should hold: no request fails for it, p99 rises by no more than 50 ms, readiness says degraded meanwhile, and ok
within 5 s after Redis is well again.
"""

import asyncio
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer
import uvloop

from bench import files, machine
from bench.command import ends_in_order, say, started
from bench.places import ROOT
from bench.redis_faults import load, report
from bench.redis_faults.faults import FAULTS, Fault
from bench.redis_faults.redis import Redis
from bench.servers import Server, module

MODELS = ROOT / ".onecard" / "models"
HEALTHY, FAULT, HEALED = 10.0, 12.0, 10.0
"""Seconds of the phases."""
QUICK = 0.2
"""What a quick run leaves of them."""
WARM_SECONDS = 5.0
"""Before the first phase, so that known texts are known and sockets are open."""


@dataclass(frozen=True)
class Plan:
    """How long, and how much."""

    healthy: float
    fault: float
    healed: float
    rate: float
    """Requests a second."""

    @property
    def seconds(self) -> float:
        """Of all phases together, with time to spare for Redis to start."""
        return WARM_SECONDS + len(FAULTS) * (self.healthy + self.fault + self.healed + 2)


def start_services(stack: ExitStack, redis: Redis, models: Path) -> list[Server]:
    """The gateway, and the sentiment service behind it. No tier in memory: every look-up asks Redis.

    Raises:
        ServerFailed: one did not start.
    """
    cache = {"REDIS_PORT": str(redis.port), "CACHE_MEMORY_MB": "0"}
    on_stand_in = {"MODEL_CACHE_PATH": str(models), "OMP_NUM_THREADS": "1", **cache}
    llm = started(stack, module("faults-llm", "a canned LLM service", "bench.redis_faults.llm", "CANNED_PORT", {}))
    what = "the sentiment service on the stand-in"
    sentiment = started(stack, module("faults-sentiment", what, "sentiment_service", "SENTIMENT_PORT", on_stand_in))
    # Nobody asks for embeddings and reviews; what stands at their addresses has only to be ready.
    urls = {"LLM_URL": llm.url, "EMBEDDING_URL": llm.url, "REVIEW_URL": llm.url, "SENTIMENT_URL": sentiment.url}
    gateway = started(stack, module("faults-gateway", "the gateway", "gateway", "GATEWAY_PORT", {**urls, **cache}))
    return [gateway, sentiment]


async def visit(fault: Fault, redis: Redis, plan: Plan) -> report.Visit:
    """Healthy, sick, well again; the load goes on all the while. Redis is handled in threads, which hold up nobody."""
    began = time.perf_counter()
    await asyncio.sleep(plan.healthy)
    broken = time.perf_counter()
    await asyncio.to_thread(fault.begin, redis)
    healed = None
    if fault.brief:
        await asyncio.to_thread(fault.heal, redis)
        healed = time.perf_counter()
    await asyncio.sleep(plan.fault)
    settled = time.perf_counter()
    if healed is None:
        await asyncio.to_thread(fault.heal, redis)
        healed = time.perf_counter()
    await asyncio.sleep(plan.healed)
    return report.Visit(fault.name, began, broken, settled, healed, time.perf_counter(), fault.brief)


async def measure(services: list[str], redis: Redis, plan: Plan) -> list[dict[str, Any]]:
    """All faults, one after the other; requests go to the first of `services`, and all of them are watched."""
    stop, supply = asyncio.Event(), load.requests(int(plan.rate * plan.seconds), "faults")
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=load.LIMIT_SECONDS),
        headers={"content-type": "application/json"},
    )
    async with session:
        sending = asyncio.create_task(load.send(session, services[0], supply, plan.rate, stop))
        watching = asyncio.create_task(load.watch(session, services, stop))
        visits = []
        try:
            await asyncio.sleep(WARM_SECONDS)
            for fault in FAULTS:
                say(f"{fault.name}: {fault.what}")
                visits.append(await visit(fault, redis, plan))
        finally:
            stop.set()
            asked, looks = await asyncio.gather(sending, watching)
    return [report.measured(one, asked, looks) for one in visits]


def main(
    rate: Annotated[float, typer.Option(min=10, max=500, help="Requests a second.")] = 60.0,
    models: Annotated[Path, typer.Option(help="Folder with the stand-ins.")] = MODELS,
    out: Annotated[Path | None, typer.Option(help="Folder for results; bench/results unless --quick.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A look only: phases of 2 s, under a minute.")] = False,
) -> None:
    """Make Redis ill under load and write redis-faults.json and .md; exit 1 if a promise did not hold.

    The whole takes three minutes; nothing else should run meanwhile. Ctrl-C stops all servers.
    """
    head = machine.describe("python -m bench.redis_faults " + " ".join(sys.argv[1:]))
    part = QUICK if quick else 1.0
    plan = Plan(HEALTHY * part, FAULT * part, HEALED * part, rate)
    with ends_in_order(), ExitStack() as stack:
        redis = stack.enter_context(Redis())
        services = start_services(stack, redis, models.resolve())
        results = uvloop.run(measure([server.url for server in services], redis, plan))
    broken = report.broken_promises(results)
    what = {fault.name: fault.what for fault in FAULTS}
    document = {"machine": head, "rate": rate, "what": what, "faults": results, "broken_promises": broken}
    folder = files.folder_for(out, quick=quick)
    files.write(folder, "redis-faults", document, report.as_markdown(document))
    files.show(folder, "redis-faults")
    if broken:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
