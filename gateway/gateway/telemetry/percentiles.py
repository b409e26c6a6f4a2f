"""Percentiles of the last minutes, in little memory. Pure: the clock is a parameter.

Durations are counted in buckets whose bounds grow by a constant factor, as in DDSketch (Masson et al., 2019), so the
relative error is the same for a millisecond as for a minute.
"""

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_SECONDS = 300.0
SLOT_SECONDS = 10.0
"""Durations are forgotten in slots of this length, so the window is shorter by up to one slot."""
RELATIVE_ERROR = 0.01
"""Error limit of a percentile, as a share of it, for durations of at least `MIN_SECONDS`."""
MIN_SECONDS = 1e-5
"""Shorter durations count as this long."""
_BUCKET_ERROR = 0.0095
"""The buckets' part of the error; the rest is for rounding."""
_GROWTH = (1 + _BUCKET_ERROR) / (1 - _BUCKET_ERROR)
_LOG_GROWTH = math.log(_GROWTH)


@dataclass(frozen=True)
class DurationSummary:
    """Durations of the last minutes, in milliseconds; the percentiles are None if there were none."""

    count: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class RecentDurations:
    """Durations of the last minutes of one kind of request."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start without durations.

        Args:
            clock: monotonic seconds.
        """
        self._clock = clock
        self._slots: deque[tuple[int, Counter[int]]] = deque()
        """Number of the slot, from second 0 of the clock, and how many durations each bucket has."""

    def add(self, seconds: float) -> None:
        """Add a duration.

        Args:
            seconds: the duration.
        """
        number = int(self._clock() // SLOT_SECONDS)
        if not self._slots or self._slots[-1][0] != number:
            self._forget(number)
            self._slots.append((number, Counter()))
        self._slots[-1][1][_bucket(seconds)] += 1

    def summary(self) -> DurationSummary:
        """The current percentiles.

        Returns:
            Their values and the number of durations.
        """
        self._forget(int(self._clock() // SLOT_SECONDS))
        buckets = sum((counted for _, counted in self._slots), Counter[int]())
        count = buckets.total()
        p50, p95, p99 = (_milliseconds(buckets, math.ceil(count * share)) for share in (0.5, 0.95, 0.99))
        return DurationSummary(count, p50, p95, p99)

    def _forget(self, now: int) -> None:
        while self._slots and self._slots[0][0] <= now - WINDOW_SECONDS / SLOT_SECONDS:
            self._slots.popleft()


def _bucket(seconds: float) -> int:
    """Number of the bucket. Its durations are at most `_GROWTH ** number * MIN_SECONDS`."""
    return math.ceil(math.log(max(seconds / MIN_SECONDS, 1.0)) / _LOG_GROWTH)


def _milliseconds(buckets: Counter[int], rank: int) -> float | None:
    """The duration of a rank, counted from 1 for the shortest: the value with the same relative error both ways."""
    for bucket in sorted(buckets):
        rank -= buckets[bucket]
        if rank <= 0:
            seconds = MIN_SECONDS * (_GROWTH**bucket * (1 - _BUCKET_ERROR) if bucket else 1)
            return float(f"{seconds * 1000:.4g}")
    return None
