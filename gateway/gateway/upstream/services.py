"""The services behind the gateway."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cached_property

from prometheus_client import CollectorRegistry

from gateway.settings import GatewaySettings
from gateway.telemetry.metrics import UpstreamMetrics
from gateway.upstream.concurrency_limiter import FairConcurrencyLimiter
from gateway.upstream.health_checker import check_endpoint, health_checking
from gateway.upstream.http_client import HttpClient
from gateway.upstream.load_balancer import LoadBalancer
from onecard.coalescing.single_flight import SingleFlight
from onecard.web.health import ComponentHealth, Status

_OK = ComponentHealth(status="ok")


@dataclass(frozen=True)
class UpstreamTimeouts:
    """Time limits of a service, in seconds."""

    first_byte_seconds: float
    """From sending the request to the head of the response. For the LLM twice the whole time: it sends the head of an
    answer that is no stream when the whole answer is made, that of a stream with its first token, and a client that
    joins a computation late has its whole time, too. Health checks find a replica that is frozen while another one
    serves, and its canary an engine that hangs."""
    idle_seconds: float
    """Between two chunks of a response."""
    total_seconds: float
    """From the request to the end of its response, with all attempts."""


@dataclass(frozen=True)
class Upstream:
    """One service, with one or more replicas."""

    name: str
    """For errors and health; its address appears in neither."""
    client: HttpClient
    load_balancer: LoadBalancer
    limiter: FairConcurrencyLimiter
    headers: Mapping[str, str]
    """Sent with every request: the service's key, if it needs one."""
    timeouts: UpstreamTimeouts
    has_models: bool = True
    """Whether it serves models that requests name."""

    async def check(self) -> ComponentHealth:
        """Check all replicas now.

        Returns:
            `ok` if all are ready, `degraded` if some are or if a ready one serves a stand-in, `down` if none is.
        """
        results = await asyncio.gather(
            *(
                check_endpoint(self.client, self.load_balancer, number)
                for number in range(len(self.load_balancer.origins))
            )
        )
        ready = results.count("ready")
        if ready == len(results):
            stand_ins = any(self.load_balancer.serves_stand_in(number) for number in range(len(results)))
            return ComponentHealth(status="degraded", detail="serves a stand-in") if stand_ins else _OK
        status: Status = "degraded" if ready else "down"
        if len(results) > 1:
            return ComponentHealth(status=status, detail=f"{ready} of {len(results)} replicas are ready")
        detail = "does not answer" if "silent" in results else "does not answer, or is not ready"
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

    @cached_property
    def by_name(self) -> dict[str, Upstream]:
        """The services by name."""
        return {upstream.name: upstream for upstream in self}

    @property
    def with_models(self) -> Sequence[Upstream]:
        """The services that serve models."""
        return [upstream for upstream in self if upstream.has_models]

    async def check(self) -> dict[str, ComponentHealth]:
        """Check all services at the same time. Concurrent calls share one check, because readiness needs no key.

        Returns:
            Their state by name.
        """
        return (await self.checks.do("all", self._check)).result

    async def _check(self) -> dict[str, ComponentHealth]:
        states = await asyncio.gather(*(upstream.check() for upstream in self))
        return {upstream.name: state for upstream, state in zip(self, states, strict=True)}


async def open_services(settings: GatewaySettings, registry: CollectorRegistry, closing: AsyncExitStack) -> Upstreams:
    """Build the services and start their health checks.

    Args:
        settings: addresses, time limits, concurrency, and the key of the LLM service.
        registry: for the metrics.
        closing: closes the connections and ends the health checks.

    Returns:
        The services.
    """
    client = HttpClient(settings.upstream_connect_seconds)
    closing.push_async_callback(client.aclose)
    key = {"authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}

    metrics = UpstreamMetrics(registry)

    async def upstream(
        name: str,
        addresses: Sequence[str],
        headers: Mapping[str, str],
        *,
        has_models: bool = True,
        first_byte_seconds: float = settings.upstream_first_byte_seconds,
    ) -> Upstream:
        service_metrics = metrics.of(name)
        balancer = LoadBalancer(name, addresses, service_metrics)
        limiter = FairConcurrencyLimiter(
            settings.upstream_concurrency * len(addresses), settings.upstream_queue, service_metrics
        )
        await closing.enter_async_context(health_checking(balancer, client))
        timeouts = UpstreamTimeouts(first_byte_seconds, settings.upstream_read_seconds, settings.upstream_total_seconds)
        return Upstream(name, client, balancer, limiter, headers, timeouts, has_models)

    return Upstreams(
        llm=await upstream("llm", settings.llm_url, key, first_byte_seconds=2 * settings.upstream_total_seconds),
        sentiment=await upstream("sentiment", settings.sentiment_url, {}),
        embedding=await upstream("embedding", settings.embedding_url, {}),
        review=await upstream("review", settings.review_url, {}, has_models=False),
    )
