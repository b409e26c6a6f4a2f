"""Which failed attempts are retried, when, and how many in all.

Requests to the services are idempotent, so each may be retried while the client has received nothing of its response.
What the response says of changes (`deleted`, `unchanged`) is that of the last attempt.
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
"""Limit of one request, the first attempt included."""
MAX_RETRY_AFTER_SECONDS = 5.0
"""A service's `Retry-After` up to this is waited for. With a longer one, the client gets the error and decides
itself."""
JITTER = 0.2
"""A `Retry-After` is extended by up to this share, so that requests refused together do not return together."""
BACKOFF_SECONDS = 0.05
MAX_BACKOFF_SECONDS = 0.3
"""The same replica is tried again after a random pause. It is at most the first of these, doubled with each attempt
up to the second ("full jitter")."""

RETRY_RATIO = 0.2
"""Retries per request. More would multiply the load of a service that fails because of its load."""
MIN_RETRIES = 10.0
MIN_RETRIES_PER_SECOND = 1.0
"""A gateway with little traffic may still retry this often; the budget refills to `MIN_RETRIES` at this rate."""
MAX_SAVED_RETRIES = 100.0
"""Limit of the budget, which is spent when a replica is lost with all its requests."""

_FAILURES: dict[int, Failure] = {429: "full", 500: "error", 502: "error", 503: "refused"}


def failure_of(status: int) -> Failure | None:
    """Whether a status is a failure of the replica.

    504 is none: a service returns it when the client's own time limit is over.

    Args:
        status: of the response.

    Returns:
        The failure; None if there is none.
    """
    return _FAILURES.get(status)


class AttemptFailed(Exception):
    """An attempt failed before any of its response was passed on. Subclasses hold the error for the client."""

    def __init__(self, failure: Failure, endpoint: int | None = None, retry_after: float | None = None) -> None:
        """Record the failure.

        Args:
            failure: what happened.
            endpoint: number of the replica; None if there was none to send to.
            retry_after: the response's `Retry-After` in seconds; None if there is none.
        """
        super().__init__(failure)
        self.failure = failure
        self.endpoint = endpoint
        self.retry_after = retry_after

    def close(self) -> None:
        """Release what the attempt holds, because it is retried."""


class RetryBudget:
    """How many retries a service may still get, from all requests together."""

    def __init__(self, clock: Callable[[], float], on_retry: Callable[[bool], None] = lambda allowed: None) -> None:
        """Start with `MIN_RETRIES`.

        Args:
            clock: monotonic seconds.
            on_retry: called for each retry with whether it is allowed.
        """
        self._clock = clock
        self._observe = on_retry
        self._tokens = MIN_RETRIES
        self._refilled_at = clock()

    def deposit(self) -> None:
        """Add a request's share to the budget."""
        self._tokens = min(self._tokens + RETRY_RATIO, MAX_SAVED_RETRIES)

    def withdraw(self) -> bool:
        """Take one retry from the budget.

        Returns:
            Whether it is allowed.
        """
        now = self._clock()
        if self._tokens < MIN_RETRIES:
            self._tokens = min(self._tokens + (now - self._refilled_at) * MIN_RETRIES_PER_SECOND, MIN_RETRIES)
        self._refilled_at = now
        is_allowed = self._tokens >= 1
        if is_allowed:
            self._tokens -= 1
        self._observe(is_allowed)
        return is_allowed


class RetryPolicy:
    """The attempts of one request."""

    def __init__(self, alternative: Callable[[Collection[int]], bool], budget: RetryBudget, deadline: Deadline) -> None:
        """Start without attempts.

        Args:
            alternative: whether there is another replica to try than the given ones.
            budget: of the service.
            deadline: of the request.
        """
        self._has_alternative = alternative
        self._budget = budget
        self._deadline = deadline
        self.tried: set[int] = set()
        """Replicas at which an attempt has failed."""

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Run attempts until one succeeds or no further one is allowed.

        Args:
            attempt: makes one attempt, which may look into `tried`.

        Returns:
            The result of the attempt that succeeded.

        Raises:
            AttemptFailed: by the last attempt.
        """
        self._budget.deposit()
        number = 1
        while True:
            try:
                return await attempt()
            except AttemptFailed as failed:
                if failed.endpoint is not None:
                    self.tried.add(failed.endpoint)
                pause_seconds = self._pause_seconds(failed, number)
                if number == MAX_ATTEMPTS or pause_seconds >= self._deadline.remaining or not self._budget.withdraw():
                    raise
                failed.close()
            await asyncio.sleep(pause_seconds)
            number += 1

    def _pause_seconds(self, failed: AttemptFailed, number: int) -> float:
        """Pause before the retry after attempt `number`.

        Returns:
            0 if there is another replica; infinite if the same one would fail again in the same way.
        """
        if self._has_alternative(self.tried):
            return 0.0
        if failed.failure in ("silent", "error", "full") or (failed.retry_after or 0) > MAX_RETRY_AFTER_SECONDS:
            return math.inf
        if failed.retry_after is not None:
            return failed.retry_after * random.uniform(1, 1 + JITTER)  # noqa: S311  (no secret)
        return random.uniform(0, min(BACKOFF_SECONDS * 2 ** (number - 1), MAX_BACKOFF_SECONDS))  # noqa: S311
