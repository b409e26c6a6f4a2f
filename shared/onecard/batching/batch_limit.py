"""The largest batch size, and how it adapts when the device runs out of memory. Pure."""

from dataclasses import dataclass

RECOVERY_BATCHES = 32
"""Successful batches in a row after which the limit grows again."""


@dataclass(frozen=True)
class BatchLimit:
    """Largest size of one batch."""

    texts: int
    tokens: int
    """Including padding. A single text may be longer; it is then a batch of its own."""


class AdaptiveBatchLimit:
    """The limit of the next batch: halved when the device runs out of memory, doubled after a run of successes."""

    def __init__(self, max_batch: BatchLimit) -> None:
        """Start with the largest limit.

        Args:
            max_batch: the limit never grows above it.
        """
        self._max = max_batch
        self._tokens = max_batch.tokens
        self._successes = 0

    @property
    def limit(self) -> BatchLimit:
        """The limit of the next batch."""
        return BatchLimit(self._max.texts, self._tokens)

    def record_out_of_memory(self, tokens: int) -> None:
        """Halve the limit.

        Args:
            tokens: padded size of the batch that did not fit; the new limit is at most half of it.
        """
        self._tokens = max(1, min(self._tokens, tokens) // 2)
        self._successes = 0

    def record_success(self) -> None:
        """Count a batch that fitted; after `RECOVERY_BATCHES` in a row the limit doubles, up to its first value."""
        self._successes += 1
        if self._successes >= RECOVERY_BATCHES and self._tokens < self._max.tokens:
            self._tokens = min(self._max.tokens, self._tokens * 2)
            self._successes = 0
