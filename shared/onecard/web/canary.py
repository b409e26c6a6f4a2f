"""A canary: a small computation by the engine on a timer, which finds an engine that hangs or computes nonsense.

Busy is not hung. A canary that waits behind other requests says nothing as long as the engine makes progress on them;
only an engine that owes an answer and makes no progress at all is hung.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter

from onecard import logs
from onecard.web.health import ComponentHealth

POLL_SECONDS = 1.0
"""How often progress is looked at while a canary is unanswered."""
FAILURES_BEFORE_RESTART = 3
"""Consecutive canaries without a plausible answer, after which the engine is given up."""

log = logs.logger()


class CanaryFailed(Exception):
    """The engine's answer to a canary is not finite or not plausible. The message says so without any content."""


@dataclass
class StuckTimer:
    """How long an engine has owed an answer without any progress. Pure: the time is an argument."""

    progress: int = -1
    """Value of the engine's counter of progress at the last look."""
    stuck_seconds: float = 0.0
    last_look: float = 0.0
    """Time of the last look, in seconds of a monotonic clock."""

    def look(self, progress: int, *, owes: bool, now: float) -> float:
        """Look at the engine.

        A gap between two looks counts as two polls at most: after a longer one this process did not run itself, so that
        nobody read what the engine may have answered meanwhile.

        Args:
            progress: the engine's counter of progress.
            owes: whether a canary is unanswered.
            now: seconds of a monotonic clock.

        Returns:
            Seconds for which it has owed an answer without progress.
        """
        gap = min(now - self.last_look, 2 * POLL_SECONDS)
        moved = progress != self.progress or not owes
        self.stuck_seconds = 0.0 if moved else self.stuck_seconds + gap
        self.progress, self.last_look = progress, now
        return self.stuck_seconds


class Canary:
    """Asks an engine for a small computation every few seconds, and says how the engine is."""

    def __init__(
        self,
        compute: Callable[[], Awaitable[None]],
        progress: Callable[[], int],
        *,
        interval_seconds: float,
        hang_seconds: float,
        on_lost: Callable[[str], None],
        registry: CollectorRegistry,
    ) -> None:
        """Prepare it; `start` starts it.

        Args:
            compute: computes the canary on the engine. It raises CanaryFailed for an answer that is not plausible, and
                any other exception where the engine refuses or fails, which says nothing about its answers.
            progress: a counter that changes whenever the engine gets on with any work.
            interval_seconds: pause between two canaries.
            hang_seconds: longest time without progress while a canary is unanswered.
            on_lost: called once, with the reason, when the engine has to be restarted.
            registry: gets the number of canaries by outcome.
        """
        self._compute = compute
        self._progress = progress
        self._interval_seconds = interval_seconds
        self._hang_seconds = hang_seconds
        self._on_lost = on_lost
        self._count = Counter("onecard_canaries", "Canaries of the engine, by outcome.", ["outcome"], registry=registry)
        for outcome in ("passed", "failed", "refused"):
            self._count.labels(outcome)  # Exported as 0 from the start, so that `rate` sees the first increase.
        self._owes = False
        self._failures = 0
        self._lost = False
        self._problem: str | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def health(self) -> ComponentHealth:
        """`down` from an implausible answer until the next plausible one, and once the engine is lost."""
        return ComponentHealth(status="down" if self._problem else "ok", detail=self._problem)

    def start(self) -> None:
        """Ask on the running event loop from now on, until `close`."""
        self._tasks = [asyncio.create_task(self._ask_repeatedly()), asyncio.create_task(self._watch())]

    async def close(self) -> None:
        """Ask no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ask(self) -> None:
        """Compute one canary and take note of the answer."""
        self._owes = True
        try:
            await self._compute()
        except CanaryFailed as failure:
            self._count.labels("failed").inc()
            self._failures += 1
            self._problem = str(failure)
            log.error("canary failed", reason=str(failure), times=self._failures)
            if self._failures >= FAILURES_BEFORE_RESTART:
                self._give_up(str(failure))
        except Exception as error:
            self._count.labels("refused").inc()
            log.info("canary not computed", error=type(error).__name__)
        else:
            self._count.labels("passed").inc()
            self._failures = 0
            if not self._lost:
                self._problem = None
        finally:
            self._owes = False

    async def _ask_repeatedly(self) -> None:
        while not self._lost:
            await asyncio.sleep(self._interval_seconds)
            await self.ask()

    async def _watch(self) -> None:
        timer = StuckTimer()
        while not self._lost:
            await asyncio.sleep(POLL_SECONDS)
            if timer.look(self._progress(), owes=self._owes, now=time.monotonic()) >= self._hang_seconds:
                self._give_up("does not answer")

    def _give_up(self, reason: str) -> None:
        if not self._lost:
            self._lost, self._problem = True, reason
            log.critical("engine lost", reason=reason)
            self._on_lost(reason)
