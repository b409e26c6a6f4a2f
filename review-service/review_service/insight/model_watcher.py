"""Which model the LLM service has, as its replicas tell: what one has written is not another's."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import httpx2 as httpx

from onecard import logs
from onecard.models import identity
from onecard.models.served_models import ServedModels

POLL_SECONDS = 1.0
"""Between two looks."""
TIMEOUT_SECONDS = 2.0
"""Longest wait for an answer."""

log = logs.logger()


class ModelWatcher:
    """Asks each replica's readiness."""

    def __init__(self, addresses: Sequence[str], http: httpx.AsyncClient) -> None:
        """`http` is somebody else's to close."""
        self._addresses = addresses
        self._http = http
        self._served_models = ServedModels(len(addresses))
        self._ready = [False] * len(addresses)

    def model(self) -> str:
        """The model's identity; while no replica is ready that of the last one; empty if it was never told."""
        model = self._served_models.model(self._ready.__getitem__)
        return model.header_value() if model else ""

    async def poll(self) -> None:
        """Ask all replicas once."""
        await asyncio.gather(*map(self._poll_replica, range(len(self._addresses))))

    async def poll_forever(self) -> None:
        """Again and again, until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.poll()
            except Exception:  # A watch that ended would go unseen, and so would another model.
                log.warning("the LLM service was not looked at", exc_info=True)

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
    """A watch over the LLM service that has looked once; it ends with the block."""
    async with httpx.AsyncClient(trust_env=False) as http:
        watch = ModelWatcher(addresses, http)
        await watch.poll()
        looking = asyncio.create_task(watch.poll_forever(), name="llm-watch")
        try:
            yield watch
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
