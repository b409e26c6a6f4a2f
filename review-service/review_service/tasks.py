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
from onecard.lanes import LANE_HEADER
from review_service.board import Board
from review_service.lookout import Lookout
from review_service.popularity import Traffic, open_traffic
from review_service.precompute import ROUND_SECONDS, Errand, Outcome, errands, rest_seconds
from review_service.queue import PLAN, REFRESH, VISIBILITY_SECONDS
from review_service.settings import WorkerSettings
from review_service.worker_metrics import WorkerMetrics

log = logs.logger()

_CONNECT_SECONDS = 2.0
_BULK = {LANE_HEADER: "bulk"}


@dataclass(frozen=True)
class Precomputer:
    """What the tasks do."""

    settings: WorkerSettings
    http: httpx.AsyncClient
    traffic: Traffic
    board: Board
    lookout: Lookout
    metrics: WorkerMetrics

    async def plan(self) -> list[Errand]:
        """A round's errands; none while the last round is under way."""
        latest = await self.board.read()
        if latest is not None and latest.under_way(time.time()):
            return []
        most = self.settings.precompute_queries
        queries = [popular.subject for popular in await self.traffic.queries.top(most)] if most else []
        planned = errands(await self._restaurants(), queries)
        await self.board.begin(planned, time.time())
        self.metrics.rounds.inc()
        return planned

    async def refresh(self, errand: Errand) -> Outcome:
        """Have one answer made ready, and rest where users are there."""
        users, began = await self.lookout.users(), time.monotonic()
        outcome: Outcome = "paused" if users == "wait" else await self._run(errand)
        took = time.monotonic() - began
        self.metrics.errand(outcome, took)
        await self.board.done(errand, outcome)
        await asyncio.sleep(rest_seconds(users, took))
        return outcome

    async def _restaurants(self) -> list[str]:
        """Those of most traffic, then those of most reviews."""
        most = self.settings.precompute_restaurants
        if not most:
            return []
        try:
            answer = await self.http.get(
                f"{self._review}/v1/restaurants", params={"sort": "popular", "limit": most}, headers=_BULK
            )
            found = answer.raise_for_status().json()["data"]
            return [str(restaurant["restaurant_id"]) for restaurant in found[:most]]
        except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
            log.warning("no restaurants", error=type(error).__name__)
            return []

    async def _run(self, errand: Errand) -> Outcome:
        url, headers = self._review + errand.path, {**_BULK, "content-type": "application/json"}
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
    def _review(self) -> str:
        return self.settings.review_url[0]


@asynccontextmanager
async def open_precomputer(settings: WorkerSettings, registry: CollectorRegistry) -> AsyncIterator[Precomputer]:
    """What the tasks of one process share, its connections above all; its metrics are in `registry`.

    Raises:
        OSError: the certificates that REDIS_URL names cannot be read.
    """
    # A task that took longer than its message stays invisible would be done twice at the same time.
    timeout = httpx.Timeout(VISIBILITY_SECONDS / 2, connect=_CONNECT_SECONDS)
    half_life = settings.popularity_half_life_seconds
    async with (
        httpx.AsyncClient(timeout=timeout, trust_env=False) as http,
        open_traffic(settings.redis_address(), half_life, registry) as traffic,
    ):
        board, lookout = Board(traffic.channel), Lookout(settings, http)
        yield Precomputer(settings, http, traffic, board, lookout, WorkerMetrics(registry))


def add_tasks(queue: Celery, portal: BlockingPortal, work: Precomputer) -> None:
    """The tasks, for a worker of this queue; `portal` leads from its threads to the loop that `work` lives on."""

    def plan() -> None:
        planned = portal.call(work.plan)
        with queue.producer_or_acquire() as producer:
            for errand in planned:
                # The next round makes anew what this one does not come to.
                queue.send_task(REFRESH, [errand.as_json()], expires=ROUND_SECONDS, producer=producer)
        log.info("round planned", errands=len(planned))

    def refresh(given: dict[str, str | None]) -> None:
        errand = Errand(path=str(given["path"]), query=given["query"])
        outcome = portal.call(work.refresh, errand)
        # Nearly all of them lie ready, round after round.
        (log.info if outcome == "computed" else log.debug)("errand done", outcome=outcome)

    queue.task(plan, name=PLAN)
    queue.task(refresh, name=REFRESH)
