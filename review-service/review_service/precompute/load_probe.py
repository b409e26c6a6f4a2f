"""Whether users are there, by the metrics of the model services and of the review service."""

import asyncio
import time
from collections.abc import Callable

import httpx2 as httpx

from review_service.precompute.refresh_jobs import LoadSnapshot, UserLoad, parse_load
from review_service.settings import WorkerSettings

SNAPSHOT_MAX_AGE_SECONDS = 1.0
"""A look is good for so long: metrics cost whoever writes and whoever reads them more than a small errand does."""
USERS_GONE_SECONDS = 10.0
"""Users who have asked for nothing for so long are gone."""
TIMEOUT_SECONDS = 2.0
"""For one service's metrics."""


class LoadProbe:
    """Looks at all of them. Users count as there until looks have found none for `USERS_GONE_SECONDS`."""

    def __init__(
        self, settings: WorkerSettings, http: httpx.AsyncClient, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`http` is somebody else's to close; `clock` gives seconds."""
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
        """What users do now, or did `SNAPSHOT_MAX_AGE_SECONDS` ago."""
        now = self._clock()
        if self._snapshot is None or now - self._probed_at > SNAPSHOT_MAX_AGE_SECONDS:
            seen = parse_load(await asyncio.gather(*map(self._fetch_metrics, self._addresses)))
            if seen.generating or (
                self._snapshot is not None and seen.requests_served != self._snapshot.requests_served
            ):
                self._last_active_at = now
            self._snapshot, self._probed_at = seen, now
        if self._snapshot.queued:
            return "wait"
        return "served" if now - self._last_active_at < USERS_GONE_SECONDS else "none"

    async def _fetch_metrics(self, address: str) -> str:
        """A service that does not answer has nobody waiting that precomputing could be in the way of."""
        try:
            answer = await self._http.get(f"{address}/metrics", headers=self._headers, timeout=TIMEOUT_SECONDS)
        except httpx.HTTPError:
            return ""
        return answer.text if answer.status_code == httpx.codes.OK else ""
