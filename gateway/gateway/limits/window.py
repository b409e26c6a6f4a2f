"""A sliding minute. Pure; the script in `redis.py` does the same sums where several gateways share them.

What was used in the minute that runs counts whole; what was used in the minute before counts by as much of it as the
last 60 seconds still cover. That is two numbers a key, however much it is used.
"""

from typing import NamedTuple

MINUTE_MS = 60_000


class Window(NamedTuple):
    """Use in the running minute and in the one before."""

    start_ms: int = 0
    """When the running minute began: with the first use, so that not all keys begin anew at the same moment."""
    current: int = 0
    previous: int = 0

    def at(self, now_ms: int) -> "Window":
        """The same use, seen from a later moment."""
        passed = (now_ms - self.start_ms) // MINUTE_MS
        if passed >= 2:
            return Window(now_ms)
        if passed == 1:
            return Window(self.start_ms + MINUTE_MS, 0, self.current)
        return self

    def used(self, now_ms: int) -> float:
        """How much of the last 60 seconds' use counts, at a moment of the running minute."""
        left_ms = min(MINUTE_MS, self.start_ms + MINUTE_MS - now_ms)
        return self.previous * left_ms / MINUTE_MS + self.current

    def plus(self, amount: int) -> "Window":
        """With so much more used."""
        return Window(self.start_ms, self.current + amount, self.previous)

    def moved(self, by_ms: int) -> "Window":
        """The same window by another clock."""
        return Window(self.start_ms + by_ms, self.current, self.previous)

    def wait_ms(self, now_ms: int, most: int) -> float:
        """How long until `used` is `most` or less, if nothing more is used."""
        if self.used(now_ms) <= most:
            return 0.0
        end_ms = self.start_ms + MINUTE_MS
        if self.current > most:  # Not before the next minute, whose `previous` this is.
            return end_ms - now_ms + MINUTE_MS * (1 - most / self.current)
        return end_ms - now_ms - MINUTE_MS * (most - self.current) / self.previous
