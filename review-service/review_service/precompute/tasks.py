"""The worker's tasks: `plan` lists the jobs of a round, `refresh` runs one job.

A job requests a response from the review service, as a user would, but in the bulk lane. The service computes the
response if it is not cached or outdated, and caches it. Running a job twice does no harm: the second time it is a hit.
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
from onecard.client_traffic import INTERNAL_HEADER
from onecard.inference.scheduling import LANE_HEADER
from review_service.precompute.load_probe import LoadProbe
from review_service.precompute.popularity import MAX_SUBJECTS, PopularityTracker, open_popularity
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
_HEADERS = {LANE_HEADER: "bulk", INTERNAL_HEADER: "precompute"}


@dataclass(frozen=True)
class Precomputer:
    """Does the work of the tasks."""

    settings: WorkerSettings
    http: httpx.AsyncClient
    popularity: PopularityTracker
    round_status: RoundStatus
    load_probe: LoadProbe
    metrics: WorkerMetrics

    async def plan(self) -> list[RefreshJob]:
        """Start a round, unless the last one is still in progress.

        Returns:
            The jobs of the round; empty while the last one is in progress.
        """
        latest = await self.round_status.read()
        # A round whose jobs were not all sent would otherwise wait for them until its time is over.
        if latest is not None and latest.sent and latest.in_progress(time.time()):
            return []
        count = self.settings.precompute_queries
        queries = [popular.subject for popular in await self.popularity.queries.top(count)] if count else []
        planned = refresh_jobs(await self._restaurant_ids(), queries)
        await self.round_status.start(planned, time.time())
        self.metrics.record_round()
        return planned

    async def refresh(self, job: RefreshJob) -> JobOutcome:
        """Run one job, or skip it if users' requests are queued. Then rest, so that users' latency does not suffer.

        Args:
            job: The request to send.

        Returns:
            The outcome, which is also recorded in the round's status and in the metrics.
        """
        users, started = await self.load_probe.user_load(), time.monotonic()
        outcome: JobOutcome = "paused" if users == "wait" else await self._request(job)
        duration = time.monotonic() - started
        self.metrics.record_job(outcome, duration)
        await self.round_status.record(job, outcome)
        await asyncio.sleep(rest_seconds(users, duration))
        return outcome

    async def _restaurant_ids(self) -> list[str]:
        """Ids of the most popular restaurants that have reviews. Nothing is renewed that nobody has visited."""
        count = self.settings.precompute_restaurants
        visited = {popular.subject for popular in await self.popularity.restaurants.top(MAX_SUBJECTS)}
        if not visited or not count:
            return []
        try:
            answer = await self.http.get(
                f"{self._review_url}/v1/restaurants", params={"sort": "popular", "limit": count}, headers=_HEADERS
            )
            restaurants = answer.raise_for_status().json()["data"]
            names = [str(restaurant["restaurant_id"]) for restaurant in restaurants[:count]]
            return [name for name in names if name in visited]
        except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
            log.warning("no restaurants", error=type(error).__name__)
            return []

    async def _request(self, job: RefreshJob) -> JobOutcome:
        url, headers = self._review_url + job.path, {**_HEADERS, "content-type": "application/json"}
        try:
            if job.query is None:
                answer = await self.http.get(url, headers=headers)
            else:
                answer = await self.http.post(url, content=job.query.encode(), headers=headers)
        except httpx.HTTPError as error:
            log.warning("refresh job failed", error=type(error).__name__)
            return "failed"
        if answer.status_code != httpx.codes.OK:
            log.warning("refresh job failed", status=answer.status_code)
            return "failed"
        return "current" if answer.headers.get("x-cache") == "hit" else "computed"

    @property
    def _review_url(self) -> str:
        return self.settings.review_url[0]


@asynccontextmanager
async def open_precomputer(settings: WorkerSettings, registry: CollectorRegistry) -> AsyncIterator[Precomputer]:
    """Open the connections that the tasks of a worker share, and close them at the end of the block.

    Args:
        settings: The worker's settings.
        registry: Where the metrics are registered.

    Yields:
        What runs the tasks.

    Raises:
        OSError: The certificates that REDIS_URL names cannot be read.
    """
    # Well below the visibility timeout: a longer task would be delivered again while it still runs.
    timeout = httpx.Timeout(VISIBILITY_TIMEOUT_SECONDS / 2, connect=_CONNECT_TIMEOUT_SECONDS)
    half_life = settings.popularity_half_life_seconds
    async with (
        httpx.AsyncClient(timeout=timeout, trust_env=False) as http,
        open_popularity(settings.redis_address(), half_life, registry) as popularity,
    ):
        round_status, load_probe = RoundStatus(popularity.channel), LoadProbe(settings, http)
        metrics = WorkerMetrics(registry, settings.precompute_seconds)
        yield Precomputer(settings, http, popularity, round_status, load_probe, metrics)


def add_tasks(queue: Celery, portal: BlockingPortal, precomputer: Precomputer) -> None:
    """Add the tasks to a worker's queue.

    Args:
        queue: The queue. `plan` also sends the jobs of a round to it.
        portal: Runs coroutines on the event loop of `precomputer`, since Celery calls tasks on its own threads.
        precomputer: Does the work.
    """

    def plan() -> None:
        planned = portal.call(precomputer.plan)
        sent = 0
        try:
            with queue.producer_or_acquire() as producer:
                for job in planned:
                    # The next round has all jobs again, so that a job that is not reached may expire.
                    queue.send_task(REFRESH_TASK, [job.as_json()], expires=ROUND_TIMEOUT_SECONDS, producer=producer)
                    sent += 1
        finally:
            portal.call(precomputer.round_status.record_sent, planned[sent:])
        log.info("round planned", jobs=len(planned))

    def refresh(message: dict[str, str | None]) -> None:
        job = RefreshJob(path=str(message["path"]), query=message["query"])
        outcome = portal.call(precomputer.refresh, job)
        # At info only what was computed: nearly all responses are current, in every round.
        (log.info if outcome == "computed" else log.debug)("refresh job done", outcome=outcome)

    queue.task(plan, name=PLAN_TASK, shared=False)
    queue.task(refresh, name=REFRESH_TASK, shared=False)
