"""Batches calls to the counters in Redis: one round trip at a time for each key.

Requests that arrive during a round trip are decided together in the next one. Settlements are sent with the key's next
request, which would otherwise wait behind a round trip of theirs.
"""

import asyncio
from dataclasses import dataclass, field

from gateway.limits.rate_limit import Decision, RateLimit, Settlement
from gateway.limits.redis_counters import RedisCounters
from onecard import logs
from onecard.coalescing.single_flight import TaskSet

SETTLE_SECONDS = 0.1
"""Settlements are sent alone if the key has no request for this long."""

log = logs.logger()


@dataclass(eq=False)
class _PendingKey:
    """Decisions and settlements that wait for the next round trip of a key."""

    rate_limit: RateLimit = field(default_factory=RateLimit)
    requests: "list[tuple[int, asyncio.Future[Decision | None]]]" = field(default_factory=list)
    """Tokens to reserve, and the future of the decision."""
    settlements: list[Settlement] = field(default_factory=list)
    is_running: bool = False
    timer: asyncio.TimerHandle | None = None
    """Sends the settlements if there is no request."""


class SharedCounters:
    """The usage of all keys in Redis, for all requests of this gateway."""

    def __init__(self, redis: RedisCounters) -> None:
        """Start with nothing pending.

        Args:
            redis: the counters.
        """
        self._redis = redis
        self._pending: dict[str, _PendingKey] = {}
        """By key. Bounded, because the operator names the keys."""
        self._tasks = TaskSet()

    async def admit(self, name: str, limit: RateLimit, tokens: int) -> Decision | None:
        """Decide on a request of a key.

        Args:
            name: of the key.
            limit: of the key.
            tokens: to reserve.

        Returns:
            The decision; None if Redis did not answer.
        """
        pending = self._pending.setdefault(name, _PendingKey())
        pending.rate_limit = limit
        decided: asyncio.Future[Decision | None] = asyncio.get_running_loop().create_future()
        pending.requests.append((tokens, decided))
        self._start(name, pending)
        return await decided

    def settle(self, name: str, settlement: Settlement) -> None:
        """Settle a request, without waiting.

        Later requests of this gateway see it at once, those of other gateways after `SETTLE_SECONDS` at most. It is
        lost if Redis does not answer.

        Args:
            name: of the key.
            settlement: of the request.
        """
        pending = self._pending.setdefault(name, _PendingKey())
        pending.settlements.append(settlement)
        self._settle_later(name, pending)

    async def close(self) -> None:
        """Send all pending settlements, and wait for round trips that are under way."""
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
        # A request whose client has left in the meantime is not counted.
        batch = [(tokens, decided) for tokens, decided in pending.requests if not decided.done()]
        settlements, pending.requests, pending.settlements = pending.settlements, [], []
        decisions: list[Decision] | None = None
        try:
            decisions = await self._redis.admit(name, pending.rate_limit, [tokens for tokens, _ in batch], settlements)
        except Exception:
            log.exception("limits are not shared")  # A bug: the gateways continue, each alone.
        finally:
            for index, (_, decided) in enumerate(batch):
                if not decided.done():
                    decided.set_result(decisions[index] if decisions else None)
