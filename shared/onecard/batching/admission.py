"""Admission control: which requests may queue. Pure.

A request is accepted when it can be expected to be answered well within its time limit. Any other is refused at once,
with the time after which to retry. One that comes again after that time is accepted while the queue is longer, because
newcomers have filled the room that has become free meanwhile.
"""

SAFETY_FACTOR = 4.0
"""A request is accepted when its expected wait, times this, is within its time limit. The estimate may be wrong by this
factor, and a long queue helps nobody."""
WAITED_SAFETY_FACTOR = 2.0
"""The same for a request that was refused and has waited as it was told to: a quarter of the time limit is room that
newcomers cannot take."""
WAITED_QUEUE_FACTOR = 1.25
"""For such a request the limit on the tokens that wait in its lane is so many times that for others."""
_DECAY = 0.9
"""Weight of the past in the throughput estimate, applied at each new batch."""
_MAX_SLOWDOWN = 10.0
"""A batch counts as at most so many times slower than estimated. If it took longer, the process or the machine stood
still, which says nothing about the device; and the more an estimate refuses, the less there is to correct it."""


class ThroughputEstimate:
    """The device's throughput under load: an exponentially weighted mean over busy batches."""

    def __init__(self, tokens_per_second: float) -> None:
        """Start from a first estimate, which counts like one second of work.

        Args:
            tokens_per_second: from warm-up.
        """
        self._tokens = tokens_per_second
        self._seconds = 1.0

    @property
    def tokens_per_second(self) -> float:
        """The estimate, at least 1."""
        return max(1.0, self._tokens / self._seconds)

    def observe(self, tokens: int, seconds: float) -> None:
        """Take in a batch that ran while others waited.

        Args:
            tokens: tokens of text in the batch, without padding.
            seconds: how long the device took; bounded, so that one batch makes the estimate ten times lower at most.
        """
        seconds = min(seconds, _MAX_SLOWDOWN * tokens / self.tokens_per_second)
        self._tokens = self._tokens * _DECAY + tokens
        self._seconds = self._seconds * _DECAY + seconds


def excess_wait_seconds(
    *,
    ahead_tokens: int,
    own_tokens: int,
    tokens_per_second: float,
    timeout_seconds: float,
    has_waited: bool = False,
) -> float:
    """By how many seconds a request would wait too long.

    The queue ahead of it may take a `SAFETY_FACTOR`-th of its time limit, and the queue and its own work together all
    of it. With an empty queue the result is 0, however large the request: `execution_seconds` covers that case.

    Args:
        ahead_tokens: tokens of requests that were accepted earlier and are not answered yet.
        own_tokens: tokens of this request.
        tokens_per_second: the device's throughput, above 0.
        timeout_seconds: the request's time limit.
        has_waited: whether it was refused before and has waited as it was told to; `WAITED_SAFETY_FACTOR` is then used.

    Returns:
        Seconds, at most the expected wait; 0 means that the request is accepted.
    """
    wait_seconds = ahead_tokens / tokens_per_second
    excess = max(
        wait_seconds - timeout_seconds / (WAITED_SAFETY_FACTOR if has_waited else SAFETY_FACTOR),
        wait_seconds + execution_seconds(own_tokens, tokens_per_second) - timeout_seconds,
    )
    return min(max(0.0, excess), wait_seconds)


def execution_seconds(own_tokens: int, tokens_per_second: float) -> float:
    """How long a request takes on an idle device; if that is over its limit, it can never be answered in time.

    Args:
        own_tokens: tokens of the request.
        tokens_per_second: the device's throughput, above 0.

    Returns:
        Seconds.
    """
    return own_tokens / tokens_per_second
