"""Limits the requests at a service at a time. More of them wait in a fair queue, with a line for each caller."""

import asyncio
import time

from gateway.telemetry.metrics import ServiceMetrics
from gateway.telemetry.trace import RequestTrace
from gateway.upstream.fair_queue import FairQueue


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

    def __init__(self, limit: int, queue_limit: int, metrics: ServiceMetrics) -> None:
        """Start with all slots free.

        Args:
            limit: requests at the service at a time.
            queue_limit: requests that may wait, of all callers together.
            metrics: of the service.
        """
        self._free = limit
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
        else:
            await self._wait(caller, trace, seconds)
        return Permit(self)

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
        while self._queue:
            granted = self._queue.get()
            if not granted.done():  # Otherwise it has stopped waiting, and the slot goes to the next one.
                granted.set_result(None)
                return
        self._free += 1
