"""What a running gateway holds."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from gateway.answers.serve import Answers
from gateway.limits.admission import Quota
from gateway.limits.limits import Limits, open_limits
from gateway.metrics import RouteMetrics
from gateway.observed import Observer
from gateway.scopes import Scopes
from gateway.settings import GatewaySettings
from gateway.trail import Tracing
from gateway.upstreams import Upstreams, connect
from onecard.cache.channel import Alarm
from onecard.cache.tiers import Cache, open_cache


@dataclass(frozen=True)
class Gateway:
    """The app's state."""

    upstreams: Upstreams
    cache: Cache
    answers: Answers
    scopes: Scopes
    limits: Limits
    observer: Observer


async def open_gateway(settings: GatewaySettings, registry: CollectorRegistry, closing: AsyncExitStack) -> Gateway:
    """The state that `settings` describe; `closing` closes it.

    Raises:
        OSError: the certificates that REDIS_URL names cannot be read.
        SystemExit: spans cannot be sent, for what sends them is not installed.
    """
    observer = Observer(RouteMetrics(registry, time.monotonic), _tracing(settings, closing))
    upstreams = await connect(settings, registry, closing)
    alarm = Alarm()
    cache = await closing.enter_async_context(open_cache(settings, registry, alarm))
    answers = Answers(upstreams.llm, cache, settings, registry)
    defaults = Quota(settings.requests_per_minute, settings.tokens_per_minute)
    # Nobody is asked to run a Redis for limits that there cannot be.
    address = None if settings.api_keys_file is None and defaults.is_empty else settings.redis_address()
    limits = await closing.enter_async_context(open_limits(defaults, address, registry, alarm))
    return Gateway(upstreams, cache, answers, Scopes(), limits, observer)


def _tracing(settings: GatewaySettings, closing: AsyncExitStack) -> Tracing | None:
    """Where spans go, if they do."""
    if settings.otel_exporter_otlp_endpoint is None:
        return None
    try:
        # Nothing of OpenTelemetry is needed otherwise, and its import takes a third of a second.
        from gateway.otlp import OtlpTracing
    except ModuleNotFoundError:
        raise SystemExit(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed. "
            "Install onecard-gateway[otlp], or unset it."
        ) from None
    tracing = OtlpTracing(settings.otel_exporter_otlp_endpoint)
    closing.push_async_callback(asyncio.to_thread, tracing.close)
    return tracing
