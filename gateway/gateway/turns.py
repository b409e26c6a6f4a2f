"""So many requests at a service at a time; the others wait for a turn, each caller in a line of its own."""

import asyncio
import time

from gateway.fair_queue import FairQueue
from gateway.metrics import UpstreamFigures
from gateway.trail import Trail


class Turn:
    """One request's place at a service, with all its attempts. Ending it, once or more, lets the next one in."""

    def __init__(self, turns: "Turns") -> None:
        self._turns: Turns | None = turns

    def end(self) -> None:
        """The request is over."""
        if self._turns is not None:
            self._turns.free()
            self._turns = None


class Turns:
    """The places at one service."""

    def __init__(self, places: int, room: int, figures: UpstreamFigures) -> None:
        """Let `places` requests in at a time, and `room` wait."""
        self._places = places
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(room)
        self._figures = figures
        figures.show_waiting(self._queue.__len__)

    async def take(self, caller: str, trail: Trail, seconds: float) -> Turn:
        """A turn, at once or in so many seconds at most.

        Raises:
            asyncio.QueueFull: so many wait that this one cannot, or can no longer.
            TimeoutError: its time is over.
        """
        if self._places:  # Then nobody waits.
            self._places -= 1
        else:
            await self._wait(caller, trail, seconds)
        return Turn(self)

    async def _wait(self, caller: str, trail: Trail, seconds: float) -> None:
        granted, began = asyncio.get_running_loop().create_future(), time.monotonic()
        refused = self._queue.put(caller, granted)
        if refused is not None and not refused.done():
            refused.set_exception(asyncio.QueueFull())
        try:
            async with asyncio.timeout(seconds):
                await granted
        except asyncio.QueueFull:
            self._figures.queue_full.inc()
            raise
        except BaseException:
            self._queue.remove(caller, granted)
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self.free()  # It came at the very moment in which nobody wanted it any more.
            raise
        else:
            self._figures.wait_seconds.observe(time.monotonic() - began)
        finally:
            trail.upstream_seconds += time.monotonic() - began

    def free(self) -> None:
        """A place is free: the next one in the queue has it, if there is one."""
        while self._queue:
            granted = self._queue.take()
            if not granted.done():  # Who has left is about to take itself out.
                granted.set_result(None)
                return
        self._places += 1
