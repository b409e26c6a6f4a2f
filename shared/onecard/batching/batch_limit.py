"""How large a batch may be, and how that changes when memory runs out. Pure."""

from dataclasses import dataclass

RECOVERY_BATCHES = 32
"""Batches in a row without trouble, after which the budget grows."""


@dataclass(frozen=True)
class BatchLimit:
    """Size of one batch."""

    texts: int
    tokens: int
    """Padding included. One text may be longer: it is then a batch of its own."""


class AdaptiveBatchLimit:
    """The limit of the next batch: halved when the device's memory runs out, grown back while it does not."""

    def __init__(self, most: BatchLimit) -> None:
        self._max = most
        self._tokens = most.tokens
        self._successes = 0

    @property
    def limit(self) -> BatchLimit:
        """For the next batch."""
        return BatchLimit(self._max.texts, self._tokens)

    def record_out_of_memory(self, tokens: int) -> None:
        """A batch of `tokens` did not fit: no more than half of it from now on."""
        self._tokens = max(1, min(self._tokens, tokens) // 2)
        self._successes = 0

    def record_success(self) -> None:
        """A batch fitted. After `RECOVERY_BATCHES` of them the budget doubles, up to where it began."""
        self._successes += 1
        if self._successes >= RECOVERY_BATCHES and self._tokens < self._max.tokens:
            self._tokens = min(self._max.tokens, self._tokens * 2)
            self._successes = 0
