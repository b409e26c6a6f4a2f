"""Limits that all gateways share: one round trip to Redis at a time for each key.

Requests that come during it are decided together in the next one. What answered requests cost rides along with the
key's next request, which would otherwise wait behind a round trip of its own for it.
"""

import asyncio
from dataclasses import dataclass, field

from gateway.limits.rate_limit import Decision, RateLimit, Settlement
from gateway.limits.redis_counters import RedisCounters
from onecard import logs
from onecard.coalescing.single_flight import TaskSet

SETTLE_SECONDS = 0.1
"""Settlements of a key whose next request takes longer than this are sent by themselves."""

log = logs.logger()


@dataclass(eq=False)
class _PendingKey:
    """What one key waits to have decided and settled."""

    rate_limit: RateLimit = field(default_factory=RateLimit)
    requests: "list[tuple[int, asyncio.Future[Decision | None]]]" = field(default_factory=list)
    """Tokens that a request may cost, and who wants to know."""
    settlements: list[Settlement] = field(default_factory=list)
    is_running: bool = False
    timer: asyncio.TimerHandle | None = None
    """Sends the settlements if no request takes them along."""


class SharedCounters:
    """The use of every key in Redis, for all requests of this gateway."""

    def __init__(self, redis: RedisCounters) -> None:
        self._redis = redis
        self._pending: dict[str, _PendingKey] = {}
        """By key; bounded, since names come from the operator."""
        self._tasks = TaskSet()

    async def admit(self, name: str, limit: RateLimit, tokens: int) -> Decision | None:
        """Take one request of the key `name`, or refuse it; None if Redis gives no answer."""
        pending = self._pending.setdefault(name, _PendingKey())
        pending.rate_limit = limit
        decided: asyncio.Future[Decision | None] = asyncio.get_running_loop().create_future()
        pending.requests.append((tokens, decided))
        self._start(name, pending)
        return await decided

    def settle(self, name: str, settlement: Settlement) -> None:
        """Count what a request has cost, before any that comes later to this gateway, and after `WARM_UP_SECONDS` for
        the others. Lost if Redis gives no answer."""
        pending = self._pending.setdefault(name, _PendingKey())
        pending.settlements.append(settlement)
        self._settle_later(name, pending)

    async def close(self) -> None:
        """Send the settlements that Redis has not been sent, and wait for what is under way."""
        while pending := [name for name, pending in self._pending.items() if pending.settlements or pending.is_running]:
            for name in pending:
                self._start(name, self._pending[name])
            await self._tasks.wait()

    def _settle_later(self, name: str, pending: _PendingKey) -> None:
        if pending.timer is None and not pending.is_running:
            pending.timer = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._start, name, pending)

    def _start(self, name: str, pending: _PendingKey) -> None:
        if pending.timer is not None:
            pending.timer.cancel()
            pending.timer = None
        if not pending.is_running:
            pending.is_running = True
            self._tasks.start(self._run(name, pending))

    async def _run(self, name: str, pending: _PendingKey) -> None:
        try:
            await self._round_trip(name, pending)
            while pending.requests:
                await self._round_trip(name, pending)
        finally:
            pending.is_running = False
            if pending.settlements:
                self._settle_later(name, pending)

    async def _round_trip(self, name: str, pending: _PendingKey) -> None:
        # Who has left meanwhile is not counted.
        batch = [(tokens, decided) for tokens, decided in pending.requests if not decided.done()]
        settlements, pending.requests, pending.settlements = pending.settlements, [], []
        decisions: list[Decision] | None = None
        try:
            decisions = await self._redis.admit(name, pending.rate_limit, [tokens for tokens, _ in batch], settlements)
        except Exception:
            log.exception("limits are not shared")  # A fault of this code: each gateway goes on by itself.
        finally:
            for place, (_, decided) in enumerate(batch):
                if not decided.done():
                    decided.set_result(decisions[place] if decisions else None)
