"""Watches which model the LLM service serves, so that summaries of another model are not taken from the cache."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx2 as httpx

from onecard import background, logs
from onecard.models import identity
from onecard.models.served_models import ServedModels

POLL_SECONDS = 5.0
"""Interval between two polls."""
CHANGING_POLL_SECONDS = 1.0
"""Interval after a poll that found a change: replicas are updated one after another."""
TIMEOUT_SECONDS = 2.0
"""Timeout for the response of one replica."""

log = logs.logger()


class ModelWatcher:
    """Polls the readiness route of each replica; its response names the model in a header."""

    def __init__(self, addresses: Sequence[str], http: httpx.AsyncClient) -> None:
        """The caller closes `http`."""
        self._addresses = addresses
        self._http = http
        self._served_models = ServedModels(len(addresses))
        self._ready = [False] * len(addresses)

    def model(self) -> str:
        """Get the identity of the served model.

        Returns:
            The identity as in the header, of the first ready replica whose model is known. If no replica is ready, that
            of the first replica that ever named one. Empty if it is unknown.
        """
        model = self._served_models.model(self._ready.__getitem__)
        return model.header_value() if model else ""

    async def poll(self) -> bool:
        """Poll all replicas once, in parallel. Returns whether another model is served, or by another replica."""
        before = self.model(), tuple(self._ready)
        await asyncio.gather(*map(self._poll_replica, range(len(self._addresses))))
        return before != (self.model(), tuple(self._ready))

    async def poll_forever(self) -> None:
        """Poll until cancelled, more often while something changes."""
        changed = False
        while True:
            await asyncio.sleep(CHANGING_POLL_SECONDS if changed else POLL_SECONDS)
            try:
                changed = await self.poll()
            except Exception:  # Logged and retried: if this task ended, a change of the model would go unnoticed.
                log.warning("polling the LLM service failed", exc_info=True)

    async def _poll_replica(self, number: int) -> None:
        try:
            answer = await self._http.get(f"{self._addresses[number]}/health/ready", timeout=TIMEOUT_SECONDS)
        except httpx.HTTPError:
            self._ready[number] = False
            return
        self._ready[number] = answer.status_code == httpx.codes.OK
        self._served_models.observe(number, answer.status_code, answer.headers.get(identity.MODEL_HEADER))


@asynccontextmanager
async def open_model_watcher(addresses: Sequence[str]) -> AsyncIterator[ModelWatcher]:
    """Watch the LLM service in a background task until the end of the block.

    Args:
        addresses: Base URLs of the replicas.

    Yields:
        The watcher, after the first poll.
    """
    async with httpx.AsyncClient(trust_env=False) as http:
        watcher = ModelWatcher(addresses, http)
        await watcher.poll()
        async with background.running(watcher.poll_forever(), name="llm-watch"):
            yield watcher
