"""Percentiles of the last minutes, in little memory. Pure: the clock is handed in.

Durations are counted in buckets whose bounds grow by a constant factor, as DDSketch has them, so that a percentile is
as exact for a millisecond as for a minute.
"""

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_SECONDS = 300.0
SLOT_SECONDS = 10.0
"""What was noted is forgotten by so many seconds at a time: the window is up to that much shorter than it says."""
RELATIVE_ERROR = 0.01
"""A percentile is wrong by at most this share of itself, for durations from `MIN_SECONDS` on."""
MIN_SECONDS = 1e-5
"""What is shorter counts as this long."""
_BUCKET_ERROR = 0.0095
"""A bucket's part of it; the rest is for rounding."""
_GROWTH = (1 + _BUCKET_ERROR) / (1 - _BUCKET_ERROR)
_LOG_GROWTH = math.log(_GROWTH)


@dataclass(frozen=True)
class DurationSummary:
    """Durations of the last minutes; the percentiles are None when there were none."""

    count: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class RecentDurations:
    """The durations of one kind of request."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._slots: deque[tuple[int, Counter[int]]] = deque()
        """Number of the slot, counted from second 0 of the clock, and how many durations each bucket has."""

    def add(self, seconds: float) -> None:
        """A request took so long."""
        number = int(self._clock() // SLOT_SECONDS)
        if not self._slots or self._slots[-1][0] != number:
            self._forget(number)
            self._slots.append((number, Counter()))
        self._slots[-1][1][_bucket(seconds)] += 1

    def summary(self) -> DurationSummary:
        """The percentiles now."""
        self._forget(int(self._clock() // SLOT_SECONDS))
        buckets = sum((counted for _, counted in self._slots), Counter[int]())
        count = buckets.total()
        p50, p95, p99 = (_milliseconds(buckets, math.ceil(count * share)) for share in (0.5, 0.95, 0.99))
        return DurationSummary(count, p50, p95, p99)

    def _forget(self, now: int) -> None:
        while self._slots and self._slots[0][0] <= now - WINDOW_SECONDS / SLOT_SECONDS:
            self._slots.popleft()


def _bucket(seconds: float) -> int:
    """Its durations are at most `_GROWTH` to the power of its number times the shortest."""
    return math.ceil(math.log(max(seconds / MIN_SECONDS, 1.0)) / _LOG_GROWTH)


def _milliseconds(buckets: Counter[int], rank: int) -> float | None:
    """The duration of this rank, counted from 1, the shortest; the value that is off by the same share either way."""
    for bucket in sorted(buckets):
        rank -= buckets[bucket]
        if rank <= 0:
            seconds = MIN_SECONDS * (_GROWTH**bucket * (1 - _BUCKET_ERROR) if bucket else 1)
            return float(f"{seconds * 1000:.4g}")
    return None
