"""The worker's tasks. They ask the review service for what is popular, as a user would, in the bulk lane: the service
computes what is not in its cache, or no longer true, and keeps it. Doing one twice does nothing twice.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2 as httpx
from anyio.from_thread import BlockingPortal
from celery import Celery
from prometheus_client import CollectorRegistry

from onecard import logs
from onecard.inference.scheduling import LANE_HEADER
from review_service.precompute.load_probe import LoadProbe
from review_service.precompute.popularity import PopularityTracker, open_popularity
from review_service.precompute.refresh_jobs import (
    ROUND_TIMEOUT_SECONDS,
    JobOutcome,
    RefreshJob,
    refresh_jobs,
    rest_seconds,
)
from review_service.precompute.round_status import RoundStatus
from review_service.precompute.task_queue import PLAN_TASK, REFRESH_TASK, VISIBILITY_TIMEOUT_SECONDS
from review_service.precompute.worker_metrics import WorkerMetrics
from review_service.settings import WorkerSettings

log = logs.logger()

_CONNECT_TIMEOUT_SECONDS = 2.0
_BULK_HEADERS = {LANE_HEADER: "bulk"}


@dataclass(frozen=True)
class Precomputer:
    """What the tasks do."""

    settings: WorkerSettings
    http: httpx.AsyncClient
    popularity: PopularityTracker
    round_status: RoundStatus
    load_probe: LoadProbe
    metrics: WorkerMetrics

    async def plan(self) -> list[RefreshJob]:
        """A round's errands; none while the last round is under way."""
        latest = await self.round_status.read()
        if latest is not None and latest.in_progress(time.time()):
            return []
        most = self.settings.precompute_queries
        queries = [popular.subject for popular in await self.popularity.queries.top(most)] if most else []
        planned = refresh_jobs(await self._restaurant_ids(), queries)
        await self.round_status.start(planned, time.time())
        self.metrics.rounds.inc()
        return planned

    async def refresh(self, errand: RefreshJob) -> JobOutcome:
        """Have one answer made ready, and rest where users are there."""
        users, began = await self.load_probe.user_load(), time.monotonic()
        outcome: JobOutcome = "paused" if users == "wait" else await self._request(errand)
        took = time.monotonic() - began
        self.metrics.record_job(outcome, took)
        await self.round_status.record(errand, outcome)
        await asyncio.sleep(rest_seconds(users, took))
        return outcome

    async def _restaurant_ids(self) -> list[str]:
        """Those of most traffic, then those of most reviews."""
        most = self.settings.precompute_restaurants
        if not most:
            return []
        try:
            answer = await self.http.get(
                f"{self._review_url}/v1/restaurants", params={"sort": "popular", "limit": most}, headers=_BULK_HEADERS
            )
            found = answer.raise_for_status().json()["data"]
            return [str(restaurant["restaurant_id"]) for restaurant in found[:most]]
        except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
            log.warning("no restaurants", error=type(error).__name__)
            return []

    async def _request(self, errand: RefreshJob) -> JobOutcome:
        url, headers = self._review_url + errand.path, {**_BULK_HEADERS, "content-type": "application/json"}
        try:
            if errand.query is None:
                answer = await self.http.get(url, headers=headers)
            else:
                answer = await self.http.post(url, content=errand.query.encode(), headers=headers)
        except httpx.HTTPError as error:
            log.warning("errand failed", error=type(error).__name__)
            return "failed"
        if answer.status_code != httpx.codes.OK:
            log.warning("errand failed", status=answer.status_code)
            return "failed"
        return "current" if answer.headers.get("x-cache") == "hit" else "computed"

    @property
    def _review_url(self) -> str:
        return self.settings.review_url[0]


@asynccontextmanager
async def open_precomputer(settings: WorkerSettings, registry: CollectorRegistry) -> AsyncIterator[Precomputer]:
    """What the tasks of one process share, its connections above all; its metrics are in `registry`.

    Raises:
        OSError: the certificates that REDIS_URL names cannot be read.
    """
    # A task that took longer than its message stays invisible would be done twice at the same time.
    timeout = httpx.Timeout(VISIBILITY_TIMEOUT_SECONDS / 2, connect=_CONNECT_TIMEOUT_SECONDS)
    half_life = settings.popularity_half_life_seconds
    async with (
        httpx.AsyncClient(timeout=timeout, trust_env=False) as http,
        open_popularity(settings.redis_address(), half_life, registry) as traffic,
    ):
        board, lookout = RoundStatus(traffic.channel), LoadProbe(settings, http)
        yield Precomputer(settings, http, traffic, board, lookout, WorkerMetrics(registry))


def add_tasks(queue: Celery, portal: BlockingPortal, work: Precomputer) -> None:
    """The tasks, for a worker of this queue; `portal` leads from its threads to the loop that `work` lives on."""

    def plan() -> None:
        planned = portal.call(work.plan)
        with queue.producer_or_acquire() as producer:
            for errand in planned:
                # The next round makes anew what this one does not come to.
                queue.send_task(REFRESH_TASK, [errand.as_json()], expires=ROUND_TIMEOUT_SECONDS, producer=producer)
        log.info("round planned", errands=len(planned))

    def refresh(given: dict[str, str | None]) -> None:
        errand = RefreshJob(path=str(given["path"]), query=given["query"])
        outcome = portal.call(work.refresh, errand)
        # Nearly all of them lie ready, round after round.
        (log.info if outcome == "computed" else log.debug)("errand done", outcome=outcome)

    queue.task(plan, name=PLAN_TASK)
    queue.task(refresh, name=REFRESH_TASK)
