"""Whether users are there, by the metrics of the model services and of the review service."""

import asyncio
import time
from collections.abc import Callable

import httpx2 as httpx

from review_service.precompute import Sight, Users, sight
from review_service.settings import WorkerSettings

FRESH_SECONDS = 1.0
"""A look is good for so long: metrics cost whoever writes and whoever reads them more than a small errand does."""
GONE_SECONDS = 10.0
"""Users who have asked for nothing for so long are gone."""
LOOK_SECONDS = 2.0
"""For one service's metrics."""


class Lookout:
    """Looks at all of them. Users count as there until looks have found none for `GONE_SECONDS`."""

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
        self._looked_at = self._served_at = clock()
        self._seen: Sight | None = None

    async def users(self) -> Users:
        """What users do now, or did `FRESH_SECONDS` ago."""
        now = self._clock()
        if self._seen is None or now - self._looked_at > FRESH_SECONDS:
            seen = sight(await asyncio.gather(*map(self._metrics, self._addresses)))
            if seen.generating or (self._seen is not None and seen.served != self._seen.served):
                self._served_at = now
            self._seen, self._looked_at = seen, now
        if self._seen.waits:
            return "wait"
        return "served" if now - self._served_at < GONE_SECONDS else "none"

    async def _metrics(self, address: str) -> str:
        """A service that does not answer has nobody waiting that precomputing could be in the way of."""
        try:
            answer = await self._http.get(f"{address}/metrics", headers=self._headers, timeout=LOOK_SECONDS)
        except httpx.HTTPError:
            return ""
        return answer.text if answer.status_code == httpx.codes.OK else ""
