"""Which model the LLM service has, as its replicas tell: what one has written is not another's."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import httpx2 as httpx

from onecard import logs
from onecard.cache import identity
from onecard.served import Served

BETWEEN_SECONDS = 1.0
"""Between two looks."""
LOOK_SECONDS = 2.0
"""Longest wait for an answer."""

log = logs.logger()


class LlmWatch:
    """Asks each replica's readiness."""

    def __init__(self, addresses: Sequence[str], http: httpx.AsyncClient) -> None:
        """`http` is somebody else's to close."""
        self._addresses = addresses
        self._http = http
        self._served = Served(len(addresses))
        self._ready = [False] * len(addresses)

    def told(self) -> str:
        """The model's identity; while no replica is ready that of the last one; empty if it was never told."""
        model = self._served.model(self._ready.__getitem__)
        return model.told() if model else ""

    async def look(self) -> None:
        """Ask all replicas once."""
        await asyncio.gather(*map(self._look_at, range(len(self._addresses))))

    async def look_on(self) -> None:
        """Again and again, until cancelled."""
        while True:
            await asyncio.sleep(BETWEEN_SECONDS)
            try:
                await self.look()
            except Exception:  # A watch that ended would go unseen, and so would another model.
                log.warning("the LLM service was not looked at", exc_info=True)

    async def _look_at(self, number: int) -> None:
        try:
            answer = await self._http.get(f"{self._addresses[number]}/health/ready", timeout=LOOK_SECONDS)
        except httpx.HTTPError:
            self._ready[number] = False
            return
        self._ready[number] = answer.status_code == httpx.codes.OK
        self._served.heard(number, answer.status_code, answer.headers.get(identity.HEADER))


@asynccontextmanager
async def watching_llm(addresses: Sequence[str]) -> AsyncIterator[LlmWatch]:
    """A watch over the LLM service that has looked once; it ends with the block."""
    async with httpx.AsyncClient(trust_env=False) as http:
        watch = LlmWatch(addresses, http)
        await watch.look()
        looking = asyncio.create_task(watch.look_on(), name="llm-watch")
        try:
            yield watch
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
