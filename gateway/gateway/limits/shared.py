"""Limits that all gateways share, at one round trip at a time for each key: who comes meanwhile goes along in the next.

A key that is far from its limits does not wait for the trip: its requests are let in by what Redis said a moment ago,
and told to it soon. With a trip for each request, limits took a sixth of the gateway's time at 64 clients (py-spy), and
0.3 ms of one client's.
"""

import asyncio
import math
import time
from dataclasses import dataclass, field

from gateway.limits.admission import Decision, Quota, Use, is_far
from gateway.limits.redis import RedisUse
from onecard.cache.flight import Tasks

KNOWN_SECONDS = 0.1
"""What Redis has said is taken to hold for so long."""
TOLD_SECONDS = 0.02
"""What was let in is told after so long at most."""
MOST_UNTOLD = 32
"""So many requests of a key are let in by one gateway before Redis is known to have counted them. With 31 gateways that
is within `FAR_REQUESTS`."""


@dataclass(eq=False)
class _Line:
    """One key's requests and tokens on their way to Redis."""

    quota: Quota = field(default_factory=Quota)
    waiting: "list[asyncio.Future[Decision | None]]" = field(default_factory=list)
    """Those who wait for the next trip."""
    let_in: int = 0
    """Requests that did not wait, and are not yet told."""
    telling: int = 0
    """Such requests that Redis is being told of."""
    tokens: int = 0
    """Spent and not yet told."""
    use: Use | None = None
    """What Redis said last, with what is not yet told; None when it gave no answer."""
    known_until: float = -math.inf
    """A second of `time.monotonic`."""
    under_way: bool = False
    timer: asyncio.TimerHandle | None = None

    @property
    def far(self) -> Use | None:
        """The use, if it is known and far from the limits."""
        if self.use is None or time.monotonic() >= self.known_until:
            return None
        return self.use if is_far(self.use, self.quota) else None


class SharedUse:
    """The use of every key in Redis, for all requests of this gateway."""

    def __init__(self, redis: RedisUse) -> None:
        self._redis = redis
        self._lines: dict[str, _Line] = {}
        """By key; bounded, since names come from the operator."""
        self._tasks = Tasks()

    async def admit(self, name: str, quota: Quota) -> Decision | None:
        """Take one request of the key `name`, or refuse it; None if Redis gives no answer."""
        line = self._line(name)
        line.quota = quota
        if line.let_in + line.telling < MOST_UNTOLD and (use := line.far):
            line.let_in += 1
            line.use = Use(use.now_ms, use.requests.plus(1), use.tokens)
            self._set_off_soon(name, line)
            return Decision("admitted", line.use)
        decided: asyncio.Future[Decision | None] = asyncio.get_running_loop().create_future()
        line.waiting.append(decided)
        self._set_off(name, line)
        return await decided

    def spend(self, name: str, tokens: int) -> None:
        """Count tokens of the key `name`: before any request of it that comes later; lost if Redis gives no answer."""
        line = self._line(name)
        line.tokens += tokens
        if line.use is not None:
            line.use = Use(line.use.now_ms, line.use.requests, line.use.tokens.plus(tokens))
        if line.far:
            self._set_off_soon(name, line)
        else:
            self._set_off(name, line)

    async def close(self) -> None:
        """Tell Redis what it has not been told."""
        for name, line in self._lines.items():
            if line.timer is not None:
                self._set_off(name, line)
        await self._tasks.finish()

    def _line(self, name: str) -> _Line:
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line()
        return line

    def _set_off(self, name: str, line: _Line) -> None:
        if not line.under_way:
            line.under_way = True
            self._tasks.begin(self._run(name, line))

    def _set_off_soon(self, name: str, line: _Line) -> None:
        if not line.under_way and line.timer is None:
            line.timer = asyncio.get_running_loop().call_later(TOLD_SECONDS, self._set_off, name, line)

    async def _run(self, name: str, line: _Line) -> None:
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        try:
            await self._trip(name, line)
            while line.waiting or ((line.tokens or line.let_in) and not line.far):
                await self._trip(name, line)
        finally:
            line.under_way = False
        if line.tokens or line.let_in:
            self._set_off_soon(name, line)

    async def _trip(self, name: str, line: _Line) -> None:
        # Who has left meanwhile is not counted.
        aboard = [decided for decided in line.waiting if not decided.done()]
        tokens, let_in = line.tokens, line.let_in
        line.waiting, line.tokens, line.let_in, line.telling = [], 0, 0, let_in
        taken = None
        known_until = time.monotonic() + KNOWN_SECONDS
        try:
            taken = await self._redis.take(name, line.quota, len(aboard), tokens=tokens, let_in=let_in)
        finally:
            line.use, line.known_until, line.telling = None, known_until, 0
            if taken is not None:
                use = taken.use
                line.use = Use(use.now_ms, use.requests.plus(line.let_in), use.tokens.plus(line.tokens))
            for place, decided in enumerate(aboard):
                if not decided.done():
                    decided.set_result(taken.decision(place) if taken else None)
