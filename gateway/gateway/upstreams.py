"""The services behind the gateway."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from yarl import URL

from gateway.settings import GatewaySettings
from onecard.health import Part

CHECK_SECONDS = 2.0
"""How long a readiness check or a look at a service's models may take."""


@dataclass(frozen=True)
class Upstream:
    """One service."""

    name: str
    """What errors and health call it: never its address."""
    http: aiohttp.ClientSession
    base: str
    headers: Mapping[str, str]
    """What every request to it carries: its key, if it asks for one."""

    def url(self, path: str) -> URL:
        """The address of `path`, which is one of our own routes and needs no quoting."""
        return URL(self.base + path, encoded=True)

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a short `GET`, for the gateway's own use.

        Raises:
            aiohttp.ClientError, TimeoutError: no answer in `CHECK_SECONDS`.
        """
        limit = aiohttp.ClientTimeout(total=CHECK_SECONDS)
        async with self.http.get(self.url(path), headers=self.headers, timeout=limit) as answer:
            return answer.status, await answer.read()

    async def check(self) -> Part:
        """Whether the service can work."""
        try:
            status, _ = await self.get("/health/ready")
        except (aiohttp.ClientError, TimeoutError):
            return Part(status="down", detail="does not answer")
        if status != 200:
            return Part(status="down", detail="answers, but is not ready")
        return Part(status="ok")

    async def models(self) -> list[dict[str, Any]]:
        """The cards of `GET /v1/models`; none when the service does not answer."""
        try:
            _, body = await self.get("/v1/models")
            cards: list[dict[str, Any]] = orjson.loads(body)["data"]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
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
    limits = aiohttp.ClientTimeout(
        total=None, sock_connect=settings.upstream_connect_seconds, sock_read=settings.upstream_read_seconds
    )
    http = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=limits,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"user-agent": "onecard", "accept-encoding": "identity"},
    )
    await closing.enter_async_context(http)
    key = {"authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
    return Upstreams(
        llm=Upstream("llm", http, settings.llm_url[0], key),
        sentiment=Upstream("sentiment", http, settings.sentiment_url[0], {}),
        embedding=Upstream("embedding", http, settings.embedding_url[0], {}),
    )
