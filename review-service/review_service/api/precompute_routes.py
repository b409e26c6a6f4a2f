"""HTTP routes of precomputing: the status of the latest round, and starting a round."""

import asyncio
import time

from fastapi import APIRouter, Request
from kombu.exceptions import OperationalError

from onecard.errors import Unavailable
from review_service.precompute.task_queue import PLAN_TASK
from review_service.schemas import PrecomputeStarted, PrecomputeStatus
from review_service.state import ReviewService

RETRY_AFTER_SECONDS = 5.0


def add_routes(router: APIRouter) -> None:
    """Add both routes to the service's router."""

    @router.get("/v1/precompute/status")
    async def status(request: Request) -> PrecomputeStatus:
        """Show the progress of the latest round of precomputing."""
        service: ReviewService = request.app.state.service
        latest = await service.round_status.read()
        if latest is None:
            return PrecomputeStatus(state="none", started_at=None, waiting=0, current=0, computed=0, paused=0, failed=0)
        return PrecomputeStatus(
            state=latest.state(time.time()),
            started_at=latest.started_at,
            waiting=latest.count("waiting"),
            current=latest.count("current"),
            computed=latest.count("computed"),
            paused=latest.count("paused"),
            failed=latest.count("failed"),
        )

    @router.post("/v1/precompute", status_code=202)
    async def run_now(request: Request) -> PrecomputeStarted:
        """Queue a round of precomputing now. It has no effect while a round is in progress."""
        service: ReviewService = request.app.state.service
        try:
            await asyncio.to_thread(service.queue.send_task, PLAN_TASK, retry=False)
        except OperationalError:
            raise Unavailable(
                "Redis, which holds the worker's tasks, is away. Try again in a few seconds.",
                retry_after=RETRY_AFTER_SECONDS,
            ) from None
        return PrecomputeStarted()
