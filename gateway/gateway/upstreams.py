"""The services behind the gateway."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from gateway.metrics import UpstreamMetrics
from gateway.pool import Pool
from gateway.settings import GatewaySettings
from gateway.transport import Connections
from gateway.turns import Turns
from gateway.watch import check, watching
from onecard.coalescing.single_flight import SingleFlight
from onecard.web.health import ComponentHealth, Status


@dataclass(frozen=True)
class Limits:
    """How long a service is waited for, in seconds."""

    first_byte_seconds: float
    silence_seconds: float
    """Between two reads of an answer that has begun."""
    total_seconds: float
    """From the request to the end of its answer, with all attempts."""


@dataclass(frozen=True)
class Upstream:
    """One service, on one or more replicas."""

    name: str
    """What errors and health call it: never its address."""
    connections: Connections
    pool: Pool
    turns: Turns
    headers: Mapping[str, str]
    """What every request to it carries: its key, if it asks for one."""
    limits: Limits
    has_models: bool = True
    """It serves models under names of theirs, and a request of it may name one."""

    async def check(self) -> ComponentHealth:
        """Whether the service can work, asked just now."""
        verdicts = await asyncio.gather(
            *(check(self.connections, self.pool, number) for number in range(len(self.pool.origins)))
        )
        ready = verdicts.count("ready")
        if ready == len(verdicts):
            return ComponentHealth(status="ok")
        status: Status = "degraded" if ready else "down"
        if len(verdicts) > 1:
            return ComponentHealth(status=status, detail=f"{ready} of {len(verdicts)} replicas are ready")
        detail = "does not answer" if "silent" in verdicts else "does not answer, or is not ready"
        return ComponentHealth(status=status, detail=detail)


@dataclass(frozen=True)
class Upstreams:
    """All services."""

    llm: Upstream
    sentiment: Upstream
    embedding: Upstream
    review: Upstream
    checks: SingleFlight[dict[str, ComponentHealth]] = field(default_factory=SingleFlight)

    def __iter__(self) -> Iterator[Upstream]:
        return iter((self.llm, self.sentiment, self.embedding, self.review))

    @property
    def with_models(self) -> Sequence[Upstream]:
        """Those that serve models."""
        return [upstream for upstream in self if upstream.has_models]

    async def check(self) -> dict[str, ComponentHealth]:
        """The state of every service, asked at the same time; once for all who want to know it at once.

        Anybody may ask for the gateway's readiness, without a key.
        """
        return (await self.checks.do("all", self._check)).result

    async def _check(self) -> dict[str, ComponentHealth]:
        parts = await asyncio.gather(*(upstream.check() for upstream in self))
        return {upstream.name: part for upstream, part in zip(self, parts, strict=True)}


async def connect(settings: GatewaySettings, registry: CollectorRegistry, closing: AsyncExitStack) -> Upstreams:
    """The services, and tasks that watch them; `closing` ends both."""
    connections = Connections(settings.upstream_connect_seconds)
    closing.push_async_callback(connections.aclose)
    limits = Limits(
        settings.upstream_first_byte_seconds, settings.upstream_read_seconds, settings.upstream_total_seconds
    )
    key = {"authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}

    metrics = UpstreamMetrics(registry)

    async def upstream(
        name: str, addresses: Sequence[str], headers: Mapping[str, str], *, has_models: bool = True
    ) -> Upstream:
        figures = metrics.of(name)
        pool = Pool(name, addresses, figures)
        turns = Turns(settings.upstream_concurrency * len(addresses), settings.upstream_queue, figures)
        await closing.enter_async_context(watching(pool, connections))
        return Upstream(name, connections, pool, turns, headers, limits, has_models)

    return Upstreams(
        llm=await upstream("llm", settings.llm_url, key),
        sentiment=await upstream("sentiment", settings.sentiment_url, {}),
        embedding=await upstream("embedding", settings.embedding_url, {}),
        review=await upstream("review", settings.review_url, {}, has_models=False),
    )
