"""Limits that all gateways share: one round trip at a time for each key; who comes meanwhile goes along in the next."""

import asyncio
from dataclasses import dataclass, field

from gateway.limits.admission import Decision, Quota, Settlement
from gateway.limits.redis import RedisUse
from onecard import logs
from onecard.coalescing.single_flight import TaskSet

log = logs.logger()


@dataclass(eq=False)
class _Line:
    """What one key waits to have decided and settled."""

    quota: Quota = field(default_factory=Quota)
    waiting: "list[tuple[int, asyncio.Future[Decision | None]]]" = field(default_factory=list)
    """Tokens that a request may cost, and who wants to know."""
    settlements: list[Settlement] = field(default_factory=list)
    under_way: bool = False


class SharedUse:
    """The use of every key in Redis, for all requests of this gateway."""

    def __init__(self, redis: RedisUse) -> None:
        self._redis = redis
        self._lines: dict[str, _Line] = {}
        """By key; bounded, since names come from the operator."""
        self._tasks = TaskSet()

    async def admit(self, name: str, quota: Quota, tokens: int) -> Decision | None:
        """Take one request of the key `name`, or refuse it; None if Redis gives no answer."""
        line = self._lines.setdefault(name, _Line())
        line.quota = quota
        decided: asyncio.Future[Decision | None] = asyncio.get_running_loop().create_future()
        line.waiting.append((tokens, decided))
        self._set_off(name, line)
        return await decided

    def settle(self, name: str, settlement: Settlement) -> None:
        """Count what a request has cost, before any that comes later; lost if Redis gives no answer."""
        line = self._lines.setdefault(name, _Line())
        line.settlements.append(settlement)
        self._set_off(name, line)

    async def close(self) -> None:
        """Let Redis hear what it has not been told."""
        await self._tasks.wait()

    def _set_off(self, name: str, line: _Line) -> None:
        if not line.under_way:
            line.under_way = True
            self._tasks.start(self._run(name, line))

    async def _run(self, name: str, line: _Line) -> None:
        try:
            while line.waiting or line.settlements:
                await self._trip(name, line)
        finally:
            line.under_way = False

    async def _trip(self, name: str, line: _Line) -> None:
        # Who has left meanwhile is not counted.
        aboard = [(tokens, decided) for tokens, decided in line.waiting if not decided.done()]
        settlements, line.waiting, line.settlements = line.settlements, [], []
        decisions: list[Decision] | None = None
        try:
            decisions = await self._redis.take(name, line.quota, [tokens for tokens, _ in aboard], settlements)
        except Exception:
            log.exception("limits are not shared")  # A fault of this code: each gateway goes on by itself.
        finally:
            for place, (_, decided) in enumerate(aboard):
                if not decided.done():
                    decided.set_result(decisions[place] if decisions else None)
