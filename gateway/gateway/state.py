"""What a running gateway holds."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from gateway.answers.serve import Answers
from gateway.limits.admission import Quota
from gateway.limits.limits import Limits, open_limits
from gateway.scopes import Scopes
from gateway.settings import GatewaySettings
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


async def open_gateway(settings: GatewaySettings, registry: CollectorRegistry, closing: AsyncExitStack) -> Gateway:
    """The state that `settings` describe; `closing` closes it.

    Raises:
        OSError: the certificates that REDIS_URL names cannot be read.
    """
    upstreams = await connect(settings, closing)
    alarm = Alarm()
    cache = await closing.enter_async_context(open_cache(settings, registry, alarm))
    answers = Answers(upstreams.llm, cache, settings, registry)
    defaults = Quota(settings.requests_per_minute, settings.tokens_per_minute)
    # Nobody is asked to run a Redis for limits that there cannot be.
    address = None if settings.api_keys_file is None and defaults.is_empty else settings.redis_address()
    limits = await closing.enter_async_context(open_limits(defaults, address, registry, alarm))
    return Gateway(upstreams, cache, answers, Scopes(), limits)
