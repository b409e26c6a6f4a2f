"""The rate limits of all keys: counted in Redis, or in this process while Redis is unavailable."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from gateway.keys.key_ring import Key
from gateway.limits.metrics import RateLimitMetrics
from gateway.limits.rate_limit import Decision, RateLimit, Settlement, Usage, decide, rate_limit_headers, rate_limited
from gateway.limits.redis_counters import PROBE, RedisCounters
from gateway.limits.shared_counters import SharedCounters
from gateway.limits.sliding_window import Cell, Window
from onecard.redis.address import RedisAddress
from onecard.redis.channel import RedisChannel, SharedBreaker


class Admission(NamedTuple):
    """An admitted request."""

    headers: dict[str, str]
    """Rate limit headers for its response."""
    reserved: int | None = None
    """Tokens that count until `RateLimiter.settle` is called; None if tokens are not limited."""
    at_ms: int = 0
    """When it was decided, by the clock of the decision."""
    shared: bool = False
    """Whether it was decided in Redis."""


class RateLimiter:
    """Admits requests and counts tokens.

    While Redis is unavailable, each gateway continues alone from the last state in Redis: the limits then hold for each
    gateway instead of for all together. What is used in that time is not written to Redis later.
    """

    def __init__(
        self,
        defaults: RateLimit,
        shared: SharedCounters | None,
        metrics: RateLimitMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Start with the usage in Redis, or with none.

        Args:
            defaults: for keys without limits of their own.
            shared: the counters in Redis; None: count in this process only.
            metrics: of the limits.
            clock: Unix seconds.
        """
        self._defaults = defaults
        self._shared = shared
        self._metrics = metrics
        self._clock = clock
        self._local: dict[str, Usage] = {}
        """Usage by key, as far as this process knows. Bounded, because the operator names the keys."""

    def rate_limit(self, key: Key) -> RateLimit:
        """The limits of a key.

        Args:
            key: the key.

        Returns:
            Its own limits, and the defaults where it has none.
        """
        return RateLimit(
            requests=key.requests_per_minute or self._defaults.requests,
            tokens=key.tokens_per_minute or self._defaults.tokens,
        )

    async def admit(self, key: Key, limit: RateLimit, tokens: int = 0) -> Admission:
        """Count a request and reserve its tokens, or refuse it.

        Args:
            key: of the request.
            limit: of the key.
            tokens: to reserve.

        Returns:
            The admission, to be settled when the response is over.

        Raises:
            RateLimited: the requests or tokens of this minute are used up.
        """  # noqa: DOC501 (what the function returns is raised)
        if limit.is_unlimited:
            return Admission({})
        decision = await self._shared.admit(key.name, limit, tokens) if self._shared else None
        shared = decision is not None
        if decision is None:
            now_ms = self._now_ms()
            usage = self._local.get(key.name, Usage()).at(now_ms)
            decision, self._local[key.name] = decide(usage, limit, tokens, now_ms)
        else:
            self._local[key.name] = self._usage_from(decision)
        self._metrics.count_decision(key.name, decision.outcome, "redis" if shared else "memory")
        if decision.wait_ms:
            raise rate_limited(decision, limit)
        reserved = None if limit.tokens is None else min(tokens, limit.tokens)
        return Admission(rate_limit_headers(decision, limit), reserved, decision.now_ms, shared)

    def settle(self, key: Key, admission: Admission, tokens: int) -> None:
        """Replace the reserved tokens of a request by the actual number, wherever they were reserved.

        Args:
            key: of the request.
            admission: of the request.
            tokens: of prompt and response.
        """
        if admission.reserved is None:
            return
        self._metrics.count_tokens(key.name, tokens)
        settlement = Settlement(admission.at_ms, tokens - admission.reserved)
        if not settlement.tokens:
            return
        if admission.shared and self._shared:
            self._shared.settle(key.name, settlement)
        else:
            now_ms = self._now_ms()
            self._local[key.name] = self._local.get(key.name, Usage()).at(now_ms).settled(now_ms, settlement)

    def _usage_from(self, decision: Decision) -> Usage:
        """A key's usage according to Redis, counted as used just now, so that it is never too low."""
        now_ms = self._now_ms()
        used = (decision.requests_used, decision.tokens_used)
        return Usage(*(Window((Cell(now_ms, amount),) if amount else ()) for amount in used))

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


@asynccontextmanager
async def open_rate_limiter(
    defaults: RateLimit, address: RedisAddress | None, registry: CollectorRegistry, breaker: SharedBreaker | None = None
) -> AsyncIterator[RateLimiter]:
    """Open the rate limits.

    Args:
        defaults: for keys without limits of their own.
        address: of Redis; None: count in this process only.
        registry: for the metrics.
        breaker: that of the process's other channels to the same Redis; None if there are none.

    Yields:
        The rate limiter. At the end, what is not settled yet is sent to Redis.
    """
    metrics = RateLimitMetrics(registry)
    if address is None:
        yield RateLimiter(defaults, None, metrics)
        return
    channel = RedisChannel("limits", address, metrics, probe=PROBE, shared_breaker=breaker)
    await channel.start()
    shared = SharedCounters(RedisCounters(channel))
    try:
        yield RateLimiter(defaults, shared, metrics)
    finally:
        await shared.close()
        await channel.close()
