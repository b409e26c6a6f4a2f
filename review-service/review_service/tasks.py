"""The worker's tasks. They ask the review service for what is popular, as a user would, in the bulk lane: the service
computes what is not in its cache, or no longer true, and keeps it. Doing one twice does nothing twice.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from celery import Celery
from prometheus_client import CollectorRegistry

from onecard import logs
from onecard.lanes import LANE_HEADER
from review_service.board import Board
from review_service.popularity import Traffic, open_traffic
from review_service.precompute import Errand, Outcome, errands, live_traffic_waits
from review_service.queue import PLAN, REFRESH, VISIBILITY_SECONDS
from review_service.settings import WorkerSettings

log = logs.logger()

_CONNECT_SECONDS = 2.0
_LOOK_SECONDS = 2.0
"""For the services' metrics."""


@dataclass(frozen=True)
class Precomputer:
    """What the tasks do."""

    settings: WorkerSettings
    http: httpx.AsyncClient
    traffic: Traffic
    board: Board

    async def plan(self) -> list[Errand]:
        """A round's errands; none while the last round is under way."""
        latest = await self.board.read()
        if latest is not None and latest.under_way(time.time()):
            return []
        most = self.settings.precompute_queries
        queries = [popular.subject for popular in await self.traffic.queries.top(most)] if most else []
        planned = errands(await self._restaurants(), queries)
        await self.board.begin(planned, time.time())
        return planned

    async def refresh(self, errand: Errand) -> Outcome:
        """Have one answer made ready."""
        outcome: Outcome = "paused" if await self._live_traffic_waits() else await self._run(errand)
        await self.board.done(errand, outcome)
        return outcome

    async def _restaurants(self) -> list[str]:
        """Those of most traffic, then those of most reviews."""
        most = self.settings.precompute_restaurants
        if not most:
            return []
        try:
            answer = await self.http.get(f"{self._review}/v1/restaurants", params={"sort": "popular", "limit": most})
            found = answer.raise_for_status().json()["data"]
            return [str(restaurant["restaurant_id"]) for restaurant in found[:most]]
        except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
            log.warning("no restaurants", error=type(error).__name__)
            return []

    async def _run(self, errand: Errand) -> Outcome:
        url, headers = self._review + errand.path, {LANE_HEADER: "bulk", "content-type": "application/json"}
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

    async def _live_traffic_waits(self) -> bool:
        own = self.settings
        addresses = (*own.llm_url, *own.embedding_url, *own.sentiment_url)
        return live_traffic_waits(await asyncio.gather(*map(self._metrics, addresses)))

    async def _metrics(self, address: str) -> str:
        """A service that does not answer has nobody waiting that precomputing could be in the way of."""
        key = self.settings.api_key
        headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        try:
            answer = await self.http.get(f"{address}/metrics", headers=headers, timeout=_LOOK_SECONDS)
        except httpx.HTTPError:
            return ""
        return answer.text if answer.status_code == httpx.codes.OK else ""

    @property
    def _review(self) -> str:
        return self.settings.review_url[0]


@asynccontextmanager
async def open_precomputer(settings: WorkerSettings) -> AsyncIterator[Precomputer]:
    """The work of one task: its connections live as long as it."""
    # A task that took longer than its message stays invisible would be done twice at the same time.
    timeout = httpx.Timeout(VISIBILITY_SECONDS / 2, connect=_CONNECT_SECONDS)
    half_life = settings.popularity_half_life_seconds
    async with (
        httpx.AsyncClient(timeout=timeout, trust_env=False) as http,
        open_traffic(settings.redis_address(), half_life, CollectorRegistry()) as traffic,
    ):
        yield Precomputer(settings, http, traffic, Board(traffic.channel))


def add_tasks(queue: Celery, settings: WorkerSettings) -> None:
    """The tasks, for a worker of this queue."""

    def plan() -> None:
        async def run() -> Sequence[Errand]:
            async with open_precomputer(settings) as work:
                return await work.plan()

        planned = asyncio.run(run())
        for errand in planned:
            queue.send_task(REFRESH, [errand.as_json()])
        log.info("round planned", errands=len(planned))

    def refresh(given: dict[str, str | None]) -> None:
        async def run() -> Outcome:
            async with open_precomputer(settings) as work:
                return await work.refresh(Errand(path=str(given["path"]), query=given["query"]))

        log.info("errand done", outcome=asyncio.run(run()))

    queue.task(plan, name=PLAN)
    queue.task(refresh, name=REFRESH)
