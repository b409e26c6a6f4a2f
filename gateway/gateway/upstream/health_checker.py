"""Readiness checks: one task asks each replica again and again, so that requests need not find out."""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress

from gateway.upstream.connection import UpstreamError
from gateway.upstream.endpoint_set import HealthCheckResult
from gateway.upstream.http_client import HttpClient
from gateway.upstream.load_balancer import LoadBalancer
from onecard import logs
from onecard.models import identity

CHECK_TIMEOUT_SECONDS = 2.0
"""How long a check may take."""
CHECK_INTERVAL_SECONDS = 1.0
"""Between the end of a check and the next one, give or take `INTERVAL_JITTER`."""
MAX_CHECK_BYTES = 64 * 1024
"""Longer answers are not read: nothing of them is looked at."""
INTERVAL_JITTER = 0.25
"""Gateways that start together do not go on asking together."""

log = logs.logger()


@asynccontextmanager
async def health_checking(balancer: LoadBalancer, client: HttpClient) -> AsyncIterator[None]:
    """Check every endpoint of `balancer`, from now to the end."""
    tasks = [
        asyncio.create_task(_check_forever(balancer, number, client), name=f"watch-{balancer.name}-{number}")
        for number in range(len(balancer.origins))
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _check_forever(balancer: LoadBalancer, number: int, client: HttpClient) -> None:
    """Ends only by being cancelled."""
    while True:
        began = time.monotonic()
        try:
            balancer.suspects[number].clear()
            result = await check_endpoint(client, balancer, number)
            balancer.on_health_check(number, result, began)
        except Exception:
            # A fault of this code must not leave a replica out for good without a word.
            log.exception("readiness check", upstream=balancer.name, replica=number)
            result = "not ready"
        if result == "silent":
            continue  # The time it has taken was pause enough, and the next one tells more.
        with suppress(TimeoutError):
            jitter = random.uniform(1 - INTERVAL_JITTER, 1 + INTERVAL_JITTER)  # noqa: S311
            async with asyncio.timeout(CHECK_INTERVAL_SECONDS * jitter):
                await balancer.suspects[number].wait()


async def check_endpoint(client: HttpClient, balancer: LoadBalancer, number: int) -> HealthCheckResult:
    """Ask a replica whether it is ready, and hear which model it has."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            answer = await client.request(
                "GET", balancer.origins[number], "/health/ready", {"x-request-id": uuid.uuid4().hex}, b""
            )
            with closing(answer):
                await answer.read(MAX_CHECK_BYTES)
    except TimeoutError:
        return "silent"
    except UpstreamError:
        return "not ready"
    balancer.models.observe(number, answer.status, answer.header(identity.MODEL_HEADER))
    return "ready" if answer.status == 200 else "not ready"
