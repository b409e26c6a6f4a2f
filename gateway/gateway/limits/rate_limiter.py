"""The limits of every key: in Redis while it is there, in this process while it is not."""

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
    """A request that may come in."""

    headers: dict[str, str]
    """What its answer tells of the limits."""
    reserved: int | None = None
    """Tokens that count until `RateLimiter.settle` hears what it cost; None: they are not limited."""
    at_ms: int = 0
    """When, by the clock of those who decided."""
    shared: bool = False
    """Redis did."""


class RateLimiter:
    """Admits requests and counts tokens.

    While Redis is away, each gateway goes on by itself from what Redis said last: the limits hold for each gateway
    instead of for all together. What was used in that time does not reach Redis afterwards.
    """

    def __init__(
        self,
        defaults: RateLimit,
        shared: SharedCounters | None,
        metrics: RateLimitMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Use `defaults` for keys without limits of their own; `clock` gives Unix seconds."""
        self._defaults = defaults
        self._shared = shared
        self._metrics = metrics
        self._clock = clock
        self._local: dict[str, Usage] = {}
        """By key, as far as this process knows; bounded, since names come from the operator."""

    def rate_limit(self, key: Key) -> RateLimit:
        """The key's own limits, and the default for what it has none of."""
        return RateLimit(
            requests=key.requests_per_minute or self._defaults.requests,
            tokens=key.tokens_per_minute or self._defaults.tokens,
        )

    async def admit(self, key: Key, limit: RateLimit, tokens: int = 0) -> Admission:
        """Take one request of the key's that may cost so many tokens, or refuse it.

        Raises:
            RateLimited: its requests or tokens of this minute are used up.
        """
        if limit.is_unlimited:
            return Admission({})
        decision = await self._shared.admit(key.name, limit, tokens) if self._shared else None
        shared = decision is not None
        if decision is None:
            now_ms = self._now_ms()
            use = self._local.get(key.name, Usage()).at(now_ms)
            decision, self._local[key.name] = decide(use, limit, tokens, now_ms)
        else:
            self._local[key.name] = self._usage_from(decision)
        self._metrics.count_decision(key.name, decision.outcome, "redis" if shared else "memory")
        if decision.wait_ms:
            raise rate_limited(decision, limit)
        reserved = None if limit.tokens is None else min(tokens, limit.tokens)
        return Admission(rate_limit_headers(decision, limit), reserved, decision.now_ms, shared)

    def settle(self, key: Key, admission: Admission, tokens: int) -> None:
        """Count what an admitted request cost in the end, in place of what was reserved, and where that was."""
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
        """What a key has used by Redis's last word, as if it was used just now: never too little."""
        now_ms = self._now_ms()
        used = (decision.requests_used, decision.tokens_used)
        return Usage(*(Window((Cell(now_ms, amount),) if amount else ()) for amount in used))

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


@asynccontextmanager
async def open_rate_limiter(
    defaults: RateLimit, address: RedisAddress | None, registry: CollectorRegistry, alarm: SharedBreaker | None = None
) -> AsyncIterator[RateLimiter]:
    """Limits whose use is kept at `address`, or in this process alone; `alarm` as in `open_cache`."""
    metrics = RateLimitMetrics(registry)
    if address is None:
        yield RateLimiter(defaults, None, metrics)
        return
    channel = RedisChannel("limits", address, metrics, probe=PROBE, shared_breaker=alarm)
    await channel.start()
    shared = SharedCounters(RedisCounters(channel))
    try:
        yield RateLimiter(defaults, shared, metrics)
    finally:
        await shared.close()
        await channel.close()
