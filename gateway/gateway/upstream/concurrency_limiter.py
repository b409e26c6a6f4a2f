"""So many requests at a service at a time; the others wait for a turn, each caller in a line of its own."""

import asyncio
import time

from gateway.telemetry.metrics import ServiceMetrics
from gateway.telemetry.trace import RequestTrace
from gateway.upstream.fair_queue import FairQueue


class Permit:
    """One request's place at a service, with all its attempts. Ending it, once or more, lets the next one in."""

    def __init__(self, limiter: "FairConcurrencyLimiter") -> None:
        self._limiter: FairConcurrencyLimiter | None = limiter

    def release(self) -> None:
        """The request is over."""
        if self._limiter is not None:
            self._limiter.release()
            self._limiter = None


class FairConcurrencyLimiter:
    """The places at one service."""

    def __init__(self, limit: int, queue_limit: int, metrics: ServiceMetrics) -> None:
        """Let `places` requests in at a time, and `room` wait."""
        self._free = limit
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(queue_limit)
        self._metrics = metrics
        metrics.show_waiting(self._queue.__len__)

    async def acquire(self, caller: str, trace: RequestTrace, seconds: float) -> Permit:
        """A turn, at once or in so many seconds at most.

        Raises:
            asyncio.QueueFull: so many wait that this one cannot, or can no longer.
            TimeoutError: its time is over.
        """
        if self._free:  # Then nobody waits.
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
                self.release()  # It came at the very moment in which nobody wanted it any more.
            raise
        else:
            self._metrics.wait_seconds.observe(time.monotonic() - began)
        finally:
            trace.upstream_seconds += time.monotonic() - began

    def release(self) -> None:
        """A place is free: the next one in the queue has it, if there is one."""
        while self._queue:
            granted = self._queue.get()
            if not granted.done():  # Who has left is about to take itself out.
                granted.set_result(None)
                return
        self._free += 1
