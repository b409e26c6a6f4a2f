"""The services behind the gateway."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx

from gateway.settings import GatewaySettings
from onecard import client
from onecard.health import Part

CHECK_SECONDS = 2.0
"""How long a readiness check or a look at a service's models may take."""


@dataclass(frozen=True)
class Upstream:
    """One service."""

    name: str
    """What errors and health call it: never its address."""
    client: httpx.AsyncClient
    key: str | None
    """Key that the service asks for, if it asks for one."""

    async def get(self, path: str) -> httpx.Response:
        """A short `GET`, for the gateway's own use.

        Raises:
            httpx.HTTPError: no answer in `CHECK_SECONDS`.
        """
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        return await self.client.get(path, headers=headers, timeout=CHECK_SECONDS)

    async def check(self) -> Part:
        """Whether the service can work."""
        try:
            answer = await self.get("/health/ready")
        except httpx.HTTPError:
            return Part(status="down", detail="does not answer")
        if answer.status_code != 200:
            return Part(status="down", detail="answers, but is not ready")
        return Part(status="ok")

    async def models(self) -> list[dict[str, Any]]:
        """The cards of `GET /v1/models`; none when the service does not answer."""
        try:
            answer = await self.get("/v1/models")
            cards: list[dict[str, Any]] = answer.json()["data"]
        except (httpx.HTTPError, ValueError, KeyError):
            return []
        return cards


@dataclass(frozen=True)
class Upstreams:
    """The gateway's state: one client for each service."""

    llm: Upstream
    sentiment: Upstream
    embedding: Upstream

    def __iter__(self) -> Iterator[Upstream]:
        return iter((self.llm, self.sentiment, self.embedding))

    async def check(self) -> dict[str, Part]:
        """The state of every service, asked at the same time."""
        parts = await asyncio.gather(*(upstream.check() for upstream in self))
        return {upstream.name: part for upstream, part in zip(self, parts, strict=True)}


async def connect(settings: GatewaySettings, closing: AsyncExitStack) -> Upstreams:
    """Clients for all services; `closing` closes them."""

    async def upstream(name: str, url: str, *, keyed: bool) -> Upstream:
        http = client.connect(
            url, connect_seconds=settings.upstream_connect_seconds, read_seconds=settings.upstream_read_seconds
        )
        await closing.enter_async_context(http)
        key = settings.api_key.get_secret_value() if keyed and settings.api_key else None
        return Upstream(name, http, key)

    return Upstreams(
        llm=await upstream("llm", settings.llm_url, keyed=True),
        sentiment=await upstream("sentiment", settings.sentiment_url, keyed=False),
        embedding=await upstream("embedding", settings.embedding_url, keyed=False),
    )
