"""Who may wait. Pure.

A request is let in when it can be expected to be answered well within its time: what is accepted is answered, the rest
is told at once when to come back.
"""

SAFETY_FACTOR = 4.0
"""A request is accepted when its expected wait, times this, is within its time limit: the estimate may be wrong by as
much, and a long queue serves nobody."""
_DECAY = 0.9
"""Weight of the past in the estimate of throughput, for each further batch."""


class ThroughputEstimate:
    """Tokens a second that the device does when it has enough to do: a weighted mean over the last busy batches."""

    def __init__(self, tokens_per_second: float) -> None:
        self._tokens = tokens_per_second
        self._seconds = 1.0

    @property
    def tokens_per_second(self) -> float:
        """The estimate, above 0."""
        return max(1.0, self._tokens / self._seconds)

    def observe(self, tokens: int, seconds: float) -> None:
        """A batch ran while others waited."""
        self._tokens = self._tokens * _DECAY + tokens
        self._seconds = self._seconds * _DECAY + seconds


def excess_wait_seconds(
    *, ahead_tokens: int, own_tokens: int, tokens_per_second: float, patience_seconds: float
) -> float:
    """By how many seconds the wait is longer than a request can afford; 0 means that it is accepted.

    What is ahead may take a `SAFETY_FACTOR`-th of its time limit, and with its own work all of it. With nothing ahead
    the answer is 0: what cannot be done even then is not a question of waiting, see `execution_seconds`.

    Args:
        ahead_tokens: accepted earlier and not answered yet.
        patience_seconds: the request's time limit.
    """
    wait = ahead_tokens / tokens_per_second
    over = max(
        wait - patience_seconds / SAFETY_FACTOR,
        wait + execution_seconds(own_tokens, tokens_per_second) - patience_seconds,
    )
    return min(max(0.0, over), wait)


def execution_seconds(own_tokens: int, tokens_per_second: float) -> float:
    """How long a request takes on an idle device; one for which that is too long can never be answered in time."""
    return own_tokens / tokens_per_second
