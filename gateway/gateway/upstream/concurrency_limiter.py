"""Limits the requests at a service at a time. More of them wait in a fair queue, with a line for each caller."""

import asyncio
import time
from collections.abc import Callable

from gateway.telemetry.metrics import ServiceMetrics
from gateway.telemetry.trace import RequestTrace
from gateway.upstream.completion_rate import CompletionRate
from gateway.upstream.fair_queue import FairQueue

FIRST_PER_SECOND = 1.0
"""First estimate of the requests that a service completes in a second while all slots are taken."""
MAX_RETRY_AFTER_SECONDS = 60.0
"""No request is told to stay away for longer: which requests come meanwhile is not known."""


class Permit:
    """One request's slot at a service, for all its attempts."""

    def __init__(self, limiter: "FairConcurrencyLimiter") -> None:
        """Start with a slot that is taken.

        Args:
            limiter: where the slot comes from.
        """
        self._limiter: FairConcurrencyLimiter | None = limiter

    def release(self) -> None:
        """Free the slot for the next request. Calling it again does nothing."""
        if self._limiter is not None:
            self._limiter.release()
            self._limiter = None


class FairConcurrencyLimiter:
    """The slots of one service."""

    def __init__(
        self,
        limit: int,
        queue_limit: int,
        metrics: ServiceMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with all slots free.

        Args:
            limit: requests at the service at a time.
            queue_limit: requests that may wait, of all callers together.
            metrics: of the service.
            clock: monotonic seconds.
        """
        self._free = limit
        self._rate = CompletionRate(clock, FIRST_PER_SECOND)
        """Of the slots that are freed while none is free."""
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(queue_limit)
        self._metrics = metrics
        metrics.show_waiting(self._queue.__len__)

    async def acquire(self, caller: str, trace: RequestTrace, seconds: float) -> Permit:
        """Take a slot, or wait for one.

        Args:
            caller: name of the request's key. Slots go to the callers in turn.
            trace: of the request; the wait is added to its time.
            seconds: longest wait.

        Returns:
            A permit. The caller releases it when the request is over, with all its attempts.

        Raises:
            asyncio.QueueFull: the queue is full and this caller has the most requests in it. Also if that happens
                during the wait, to the newest of them.
            TimeoutError: no slot was free in time.
        """
        if self._free:  # A slot is only free while the queue is empty.
            self._free -= 1
            if not self._free:
                self._rate.resume()
        else:
            await self._wait(caller, trace, seconds)
        return Permit(self)

    def retry_after_seconds(self, caller: str) -> float:
        """When a request that is refused because the queue is full may come again.

        Args:
            caller: name of its key.

        Returns:
            How long the service takes for the requests of this caller that wait now, while it serves those of others in
            turn; at most `MAX_RETRY_AFTER_SECONDS`.
        """
        return min(self._queue.turns_of(caller) / self._rate.per_second, MAX_RETRY_AFTER_SECONDS)

    async def _wait(self, caller: str, trace: RequestTrace, seconds: float) -> None:
        granted, began = asyncio.get_running_loop().create_future(), time.monotonic()
        refused = self._queue.put(caller, granted)
        if refused is not None and not refused.done():
            refused.set_exception(asyncio.QueueFull())
        try:
            async with asyncio.timeout(seconds):
                await granted
        except asyncio.QueueFull:
            self._metrics.queue_full.inc()
            raise
        except BaseException:
            self._queue.remove(caller, granted)
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self.release()  # It was granted at the very moment at which the wait ended.
            raise
        else:
            self._metrics.wait_seconds.observe(time.monotonic() - began)
        finally:
            trace.upstream_seconds += time.monotonic() - began

    def release(self) -> None:
        """Free one slot. The next request in the queue gets it, if there is one."""
        if not self._free:
            self._rate.record()
        while self._queue:
            granted = self._queue.get()
            if not granted.done():  # Otherwise it has stopped waiting, and the slot goes to the next one.
                granted.set_result(None)
                return
        self._free += 1
