"""How many requests a service completes in a second while more of them wait. Pure: the clock is a parameter."""

import math
from collections.abc import Callable

MEMORY_SECONDS = 10.0
"""A completion of so long ago has 1/e of the weight of a new one."""
MAX_GAP_SECONDS = 60.0
"""A longer pause between two completions counts as this: a standstill says little about the time after it."""
_BATCH_SECONDS = 1.0
"""A pause that is not over counts from here on: completions come in batches."""


class CompletionRate:
    """An exponentially weighted mean over the time in which requests waited."""

    def __init__(self, clock: Callable[[], float], first_per_second: float) -> None:
        """Start from a first estimate, which counts like one completion.

        Args:
            clock: monotonic seconds.
            first_per_second: the estimate, above 0.
        """
        self._clock = clock
        self._count = 1.0
        self._seconds = 1 / first_per_second
        self._since = clock()
        """Time of the last completion, or when requests began to wait."""

    def resume(self) -> None:
        """Leave out the time since the last completion, because no request waited."""
        self._since = self._clock()

    def record(self) -> None:
        """Count a completion while other requests wait."""
        gap = self._gap_seconds()
        weight = math.exp(-gap / MEMORY_SECONDS)
        self._count = self._count * weight + 1
        self._seconds = self._seconds * weight + gap
        self._since = self._clock()

    @property
    def per_second(self) -> float:
        """The estimate, above 0. It falls while requests wait and none is completed."""
        return self._count / (self._seconds + max(0.0, self._gap_seconds() - _BATCH_SECONDS))

    def _gap_seconds(self) -> float:
        return min(self._clock() - self._since, MAX_GAP_SECONDS)
