"""Detects users' load from the metrics of the model services and of the review service."""

import asyncio
import time
from collections.abc import Callable

import httpx2 as httpx

from review_service.precompute.refresh_jobs import LoadSnapshot, UserLoad, parse_load
from review_service.settings import WorkerSettings

SNAPSHOT_MAX_AGE_SECONDS = 1.0
"""How long a snapshot of the metrics is used. Rendering and parsing them takes longer than a small refresh job."""
USERS_GONE_SECONDS = 10.0
"""After this long without requests of users, the service counts as unused."""
TIMEOUT_SECONDS = 2.0
"""Timeout for the metrics of one service."""


class LoadProbe:
    """Reads the metrics of all services.

    It reports users until the metrics have shown none for `USERS_GONE_SECONDS`, also right after the start.
    """

    def __init__(
        self, settings: WorkerSettings, http: httpx.AsyncClient, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """The caller closes `http`. `clock` returns seconds."""
        self._addresses = (
            *settings.llm_url,
            *settings.embedding_url,
            *settings.sentiment_url,
            *settings.review_url,
        )
        key = settings.api_key
        self._headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        self._http = http
        self._clock = clock
        self._probed_at = self._last_active_at = clock()
        self._snapshot: LoadSnapshot | None = None

    async def user_load(self) -> UserLoad:
        """Read the load of users from the metrics, or from a snapshot of at most `SNAPSHOT_MAX_AGE_SECONDS`.

        Returns:
            `wait` if requests of users are queued, `served` if there was a request within `USERS_GONE_SECONDS`, else
            `none`.
        """
        now = self._clock()
        if self._snapshot is None or now - self._probed_at > SNAPSHOT_MAX_AGE_SECONDS:
            latest = parse_load(await asyncio.gather(*map(self._fetch_metrics, self._addresses)))
            if latest.generating or (
                self._snapshot is not None and latest.requests_served != self._snapshot.requests_served
            ):
                self._last_active_at = now
            self._snapshot, self._probed_at = latest, now
        if self._snapshot.queued:
            return "wait"
        return "served" if now - self._last_active_at < USERS_GONE_SECONDS else "none"

    async def _fetch_metrics(self, address: str) -> str:
        """Metrics of one service; empty if it does not answer, because then no user waits for it either."""
        try:
            answer = await self._http.get(f"{address}/metrics", headers=self._headers, timeout=TIMEOUT_SECONDS)
        except httpx.HTTPError:
            return ""
        return answer.text if answer.status_code == httpx.codes.OK else ""
