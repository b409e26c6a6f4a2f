"""Readiness checks: a task for each replica checks it regularly, so that ejection does not depend on requests."""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress

from gateway.upstream.connection import UpstreamError
from gateway.upstream.http_client import HttpClient
from gateway.upstream.load_balancer import LoadBalancer
from gateway.upstream.outlier_ejection import HealthCheckResult
from onecard import logs
from onecard.models import identity

CHECK_TIMEOUT_SECONDS = 2.0
"""Time limit of one check."""
CHECK_INTERVAL_SECONDS = 1.0
"""Pause between two checks, give or take `INTERVAL_JITTER`."""
MAX_CHECK_BYTES = 64 * 1024
"""A longer response counts as not ready. Its body is not used."""
INTERVAL_JITTER = 0.25
"""Share of the pause that is random, so that gateways that start together do not keep checking together."""

log = logs.logger()


@asynccontextmanager
async def health_checking(balancer: LoadBalancer, client: HttpClient) -> AsyncIterator[None]:
    """Check every replica of a service while the block runs.

    Args:
        balancer: of the service; gets the results.
        client: for the checks.
    """
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
    """Check one replica until the task is cancelled."""
    while True:
        began = time.monotonic()
        try:
            balancer.suspects[number].clear()
            result = await check_endpoint(client, balancer, number)
            balancer.on_health_check(number, result, began)
        except Exception:
            # A bug in this code must not silently end the checks, which would leave a replica ejected for good.
            log.exception("readiness check", upstream=balancer.name, replica=number)
            result = "not ready"
        if result == "silent":
            continue  # The timeout was pause enough, and the next check counts towards ejection.
        with suppress(TimeoutError):
            jitter = random.uniform(1 - INTERVAL_JITTER, 1 + INTERVAL_JITTER)  # noqa: S311
            async with asyncio.timeout(CHECK_INTERVAL_SECONDS * jitter):
                await balancer.suspects[number].wait()


async def check_endpoint(client: HttpClient, balancer: LoadBalancer, number: int) -> HealthCheckResult:
    """Check whether a replica is ready, and record which model it serves.

    Args:
        client: for the check.
        balancer: of the service; gets the model that the response names.
        number: of the replica.

    Returns:
        The outcome: `ready` only for a response with status 200 within `CHECK_TIMEOUT_SECONDS`.
    """
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            response = await client.request(
                "GET", balancer.origins[number], "/health/ready", {"x-request-id": uuid.uuid4().hex}, b""
            )
            with closing(response):
                await response.read(MAX_CHECK_BYTES)
    except TimeoutError:
        return "silent"
    except UpstreamError:
        return "not ready"
    balancer.models.observe(number, response.status, response.header(identity.MODEL_HEADER))
    return "ready" if response.status == 200 else "not ready"
