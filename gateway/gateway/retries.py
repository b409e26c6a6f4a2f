"""Which failed attempts are repeated, when, and how many in all.

Whatever is behind the gateway, doing it twice is as if it was done once, so that whatever the client has had nothing of
may be asked for again.
"""

import math
import random
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential

from gateway.deadlines import Deadline
from gateway.replicas import Failure

T = TypeVar("T")

ATTEMPTS = 3
"""Most attempts of one request."""
LONGEST_WAIT_SECONDS = 5.0
"""A service's Retry-After up to this is waited for; with a longer one the client is told, and decides itself."""
JITTER = 0.2
"""A Retry-After is exceeded by up to this share, so that those who were refused together do not return together."""
BACKOFF = wait_random_exponential(multiplier=0.05, max=0.3)
"""Before the same replica is asked again."""

SHARE = 0.2
"""Retries may be this share of the requests. More would multiply the load of a service that fails for its load."""
FLOOR = 10.0
FLOOR_PER_SECOND = 1.0
"""A gateway with little traffic may still repeat so many, which come back at this rate."""
MOST = 100.0
"""So many may be saved up, for the moment when a replica is lost with all that waits there."""

_FAILURES: dict[int, Failure] = {429: "full", 500: "error", 502: "error", 503: "refused"}


def failure_of(status: int) -> Failure | None:
    """What an answer with this status says against its replica.

    504 says nothing: a service gives it when the client's own time limit is over.
    """
    return _FAILURES.get(status)


class AttemptFailed(Exception):
    """An attempt failed before anything of an answer was passed on. What the client is told in the end goes with it, in
    a subclass."""

    def __init__(self, failure: Failure, replica: int | None = None, retry_after: float | None = None) -> None:
        """Take what happened at which replica (None: no one could be asked) and its Retry-After in seconds."""
        super().__init__(failure)
        self.failure = failure
        self.replica = replica
        self.retry_after = retry_after


class Budget:
    """How many retries a service may still get, whichever requests they belong to."""

    def __init__(self, clock: Callable[[], float], told: Callable[[bool], None] = lambda goes_out: None) -> None:
        """Take `told`, which hears of each retry that is asked for whether it may go out."""
        self._clock = clock
        self._told = told
        self._tokens = FLOOR
        self._at = clock()

    def deposit(self) -> None:
        """A request has come."""
        self._tokens = min(self._tokens + SHARE, MOST)

    def withdraw(self) -> bool:
        """Whether a retry may go out; it is counted."""
        now = self._clock()
        if self._tokens < FLOOR:
            self._tokens = min(self._tokens + (now - self._at) * FLOOR_PER_SECOND, FLOOR)
        self._at = now
        goes_out = self._tokens >= 1
        if goes_out:
            self._tokens -= 1
        self._told(goes_out)
        return goes_out


class Retries:
    """The rules for one request: pure, but for the waiting that tenacity does."""

    def __init__(self, elsewhere: Callable[[Collection[int]], bool], budget: Budget, deadline: Deadline) -> None:
        """Take `elsewhere`, which says whether some other replica can be asked than those tried."""
        self._elsewhere = elsewhere
        self._budget = budget
        self._deadline = deadline
        self._pause = 0.0
        self.tried: set[int] = set()

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The outcome of the first attempt that works; each one finds in `tried` where the request has been.

        Raises:
            AttemptFailed: of the last attempt.
        """
        self._budget.deposit()
        try:
            return await attempt()  # Past tenacity, whose 24 µs are a good part of what relaying costs.
        except AttemptFailed as failed:
            first = [failed]

        async def again() -> T:
            if first:
                raise first.pop()
            return await attempt()

        retrying = AsyncRetrying(retry=self._may, wait=lambda _: self._pause, reraise=True)
        return await retrying(again)

    def _may(self, state: RetryCallState) -> bool:
        """Whether the attempt that has just ended is repeated; if it is, the budget has been charged."""
        failed = state.outcome.exception() if state.outcome else None
        if not isinstance(failed, AttemptFailed) or state.attempt_number >= ATTEMPTS:
            return False
        if failed.replica is not None:
            self.tried.add(failed.replica)
        self._pause = self._seconds_until_next(failed, state)
        return self._pause < self._deadline.left and self._budget.withdraw()

    def _seconds_until_next(self, failed: AttemptFailed, state: RetryCallState) -> float:
        """0 for another replica; infinite where the same one would do the same again."""
        if self._elsewhere(self.tried):
            return 0.0
        if failed.failure in ("silent", "error", "full") or (failed.retry_after or 0) > LONGEST_WAIT_SECONDS:
            return math.inf
        if failed.retry_after is not None:
            return failed.retry_after * random.uniform(1, 1 + JITTER)  # noqa: S311  (no secret)
        return BACKOFF(state)
