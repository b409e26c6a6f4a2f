"""Readiness checks: one task asks each replica again and again, so that requests need not find out."""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress

from gateway.guarded import Fault
from gateway.pool import Pool
from gateway.replicas import Verdict
from gateway.transport import Connections
from onecard import logs
from onecard.models import identity

CHECK_SECONDS = 2.0
"""How long a check may take."""
BETWEEN_SECONDS = 1.0
"""Between the end of a check and the next one, give or take `SPREAD`."""
MOST_TOLD_BYTES = 64 * 1024
"""Longer answers are not read: nothing of them is looked at."""
SPREAD = 0.25
"""Gateways that start together do not go on asking together."""

log = logs.logger()


@asynccontextmanager
async def watching(pool: Pool, connections: Connections) -> AsyncIterator[None]:
    """Check every replica of `pool`, from now to the end."""
    tasks = [
        asyncio.create_task(_watch(pool, number, connections), name=f"watch-{pool.name}-{number}")
        for number in range(len(pool.origins))
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _watch(pool: Pool, number: int, connections: Connections) -> None:
    """Ends only by being cancelled."""
    while True:
        began = time.monotonic()
        try:
            pool.suspected[number].clear()
            verdict = await check(connections, pool, number)
            pool.checked(number, verdict, began)
        except Exception:
            # A fault of this code must not leave a replica out for good without a word.
            log.exception("readiness check", upstream=pool.name, replica=number)
            verdict = "not ready"
        if verdict == "silent":
            continue  # The time it has taken was pause enough, and the next one tells more.
        with suppress(TimeoutError):
            async with asyncio.timeout(BETWEEN_SECONDS * random.uniform(1 - SPREAD, 1 + SPREAD)):  # noqa: S311
                await pool.suspected[number].wait()


async def check(connections: Connections, pool: Pool, number: int) -> Verdict:
    """Ask a replica whether it is ready, and hear which model it has."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            answer = await connections.ask(
                "GET", pool.origins[number], "/health/ready", {"x-request-id": uuid.uuid4().hex}, b""
            )
            with closing(answer):
                await answer.read(MOST_TOLD_BYTES)
    except TimeoutError:
        return "silent"
    except Fault:
        return "not ready"
    pool.served.observe(number, answer.status, answer.header(identity.MODEL_HEADER))
    return "ready" if answer.status == 200 else "not ready"
