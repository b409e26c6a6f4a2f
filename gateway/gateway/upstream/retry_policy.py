"""Which failed attempts are repeated, when, and how many in all.

Whatever is behind the gateway, doing it twice is as if it was done once, so that whatever the client has had nothing of
may be asked for again.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from gateway.telemetry.outcomes import Failure
from gateway.upstream.deadline import Deadline

T = TypeVar("T")

MAX_ATTEMPTS = 3
"""Most attempts of one request."""
MAX_RETRY_AFTER_SECONDS = 5.0
"""A service's Retry-After up to this is waited for; with a longer one the client is told, and decides itself."""
JITTER = 0.2
"""A Retry-After is exceeded by up to this share, so that those who were refused together do not return together."""
BACKOFF_SECONDS = 0.05
MAX_BACKOFF_SECONDS = 0.3
"""The same replica is asked again after a random time of up to the first, which doubles with each attempt up to the
second ("full jitter")."""

RETRY_RATIO = 0.2
"""Retries may be this share of the requests. More would multiply the load of a service that fails for its load."""
MIN_RETRIES = 10.0
MIN_RETRIES_PER_SECOND = 1.0
"""A gateway with little traffic may still repeat so many, which come back at this rate."""
MAX_SAVED_RETRIES = 100.0
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
        self.endpoint = replica
        self.retry_after = retry_after

    def close(self) -> None:
        """The attempt is repeated: let go of what it has left."""


class RetryBudget:
    """How many retries a service may still get, whichever requests they belong to."""

    def __init__(self, clock: Callable[[], float], told: Callable[[bool], None] = lambda goes_out: None) -> None:
        """Take `told`, which hears of each retry that is asked for whether it may go out."""
        self._clock = clock
        self._observe = told
        self._tokens = MIN_RETRIES
        self._refilled_at = clock()

    def deposit(self) -> None:
        """A request has come."""
        self._tokens = min(self._tokens + RETRY_RATIO, MAX_SAVED_RETRIES)

    def withdraw(self) -> bool:
        """Whether a retry may go out; it is counted."""
        now = self._clock()
        if self._tokens < MIN_RETRIES:
            self._tokens = min(self._tokens + (now - self._refilled_at) * MIN_RETRIES_PER_SECOND, MIN_RETRIES)
        self._refilled_at = now
        goes_out = self._tokens >= 1
        if goes_out:
            self._tokens -= 1
        self._observe(goes_out)
        return goes_out


class RetryPolicy:
    """The attempts of one request."""

    def __init__(self, elsewhere: Callable[[Collection[int]], bool], budget: RetryBudget, deadline: Deadline) -> None:
        """Take `elsewhere`, which says whether some other replica can be asked than those tried."""
        self._has_alternative = elsewhere
        self._budget = budget
        self._deadline = deadline
        self.tried: set[int] = set()
        """Replicas that an attempt has failed at."""

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The outcome of the first attempt that works; each one finds in `tried` where the request has been.

        Raises:
            AttemptFailed: of the last attempt.
        """
        self._budget.deposit()
        for number in range(1, MAX_ATTEMPTS + 1):
            try:
                return await attempt()
            except AttemptFailed as failed:
                if failed.endpoint is not None:
                    self.tried.add(failed.endpoint)
                pause = self._pause_seconds(failed, number)
                if number == MAX_ATTEMPTS or pause >= self._deadline.remaining or not self._budget.withdraw():
                    raise
                failed.close()
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _pause_seconds(self, failed: AttemptFailed, number: int) -> float:
        """Before attempt `number` is repeated: 0 at another replica; infinite where the same one would do the same
        again."""
        if self._has_alternative(self.tried):
            return 0.0
        if failed.failure in ("silent", "error", "full") or (failed.retry_after or 0) > MAX_RETRY_AFTER_SECONDS:
            return math.inf
        if failed.retry_after is not None:
            return failed.retry_after * random.uniform(1, 1 + JITTER)  # noqa: S311  (no secret)
        return random.uniform(0, min(BACKOFF_SECONDS * 2 ** (number - 1), MAX_BACKOFF_SECONDS))  # noqa: S311
