"""The limits of every key: in Redis while it is there, in this process while it is not."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from gateway.keys.ring import Key
from gateway.limits.admission import Quota, Use, decide, headers, refusal
from gateway.limits.metrics import LimitsMetrics
from gateway.limits.redis import PROBE, RedisUse
from gateway.limits.shared import SharedUse
from gateway.limits.window import Window
from onecard.cache.address import Address
from onecard.cache.channel import Alarm, Channel

_UNUSED = Use(0, Window(), Window())


class Admission(NamedTuple):
    """A request that may come in."""

    headers: dict[str, str]
    """What its answer tells of the limits."""
    counts_tokens: bool
    """Its tokens matter: call `Limits.spent` when they are known."""


class Limits:
    """Admits requests and counts tokens.

    While Redis is away, each gateway goes on by itself from what Redis said last: the limits hold for each gateway
    instead of for all together. What was used in that time does not reach Redis afterwards.
    """

    def __init__(
        self,
        defaults: Quota,
        shared: SharedUse | None,
        metrics: LimitsMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Use `defaults` for keys without limits of their own; `clock` gives Unix seconds."""
        self._defaults = defaults
        self._shared = shared
        self._metrics = metrics
        self._clock = clock
        self._own: dict[str, tuple[Use, int]] = {}
        """By key, what it had used when the clock showed so many milliseconds; bounded, since names come from the
        operator."""

    async def admit(self, key: Key) -> Admission:
        """Take one request of the key's, or refuse it.

        Raises:
            RateLimited: its requests or tokens of this minute are used up.
        """
        quota = self._quota(key)
        if quota.is_empty:
            return Admission({}, counts_tokens=False)
        decision = await self._shared.admit(key.name, quota) if self._shared else None
        kept_in = "memory" if decision is None else "redis"
        if decision is None:
            decision = decide(self._use(key.name), quota)
        self._own[key.name] = decision.use, self._now_ms()
        self._metrics.decided(key.name, decision.outcome, kept_in)
        if decision.outcome != "admitted":
            raise refusal(decision, quota)
        return Admission(headers(decision.use, quota), counts_tokens=quota.tokens is not None)

    def spent(self, key: Key, tokens: int) -> None:
        """Count the tokens of an answered request."""
        if tokens <= 0:
            return
        self._metrics.spent(key.name, tokens)
        # Not into the minute of its admission: an answer may take longer than that counts.
        use = self._use(key.name)
        self._own[key.name] = Use(use.now_ms, use.requests, use.tokens.plus(tokens)), use.now_ms
        if self._shared is not None:
            self._shared.spend(key.name, tokens)

    def _quota(self, key: Key) -> Quota:
        """The key's own limits, and the default for what it has none of."""
        return Quota(
            requests=key.requests_per_minute or self._defaults.requests,
            tokens=key.tokens_per_minute or self._defaults.tokens,
        )

    def _use(self, name: str) -> Use:
        use, at_ms = self._own.get(name, (_UNUSED, 0))
        return use.by_clock(at_ms).at(self._now_ms())

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


@asynccontextmanager
async def open_limits(
    defaults: Quota, address: Address | None, registry: CollectorRegistry, alarm: Alarm | None = None
) -> AsyncIterator[Limits]:
    """Limits whose use is kept at `address`, or in this process alone; `alarm` as in `open_cache`."""
    metrics = LimitsMetrics(registry)
    if address is None:
        yield Limits(defaults, None, metrics)
        return
    channel = Channel("limits", address, metrics, probe=PROBE, alarm=alarm)
    await channel.start()
    shared = SharedUse(RedisUse(channel))
    try:
        yield Limits(defaults, shared, metrics)
    finally:
        await shared.close()
        await channel.close()
