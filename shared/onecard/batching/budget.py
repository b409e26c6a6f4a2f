"""How large a batch may be, and how that changes when memory runs out. Pure."""

from dataclasses import dataclass

RECOVERY_BATCHES = 32
"""Batches in a row without trouble, after which the budget grows."""


@dataclass(frozen=True)
class Limit:
    """Size of one batch."""

    texts: int
    tokens: int
    """Padding included. One text may be longer: it is then a batch of its own."""


class Budget:
    """The limit of the next batch: halved when the device's memory runs out, grown back while it does not."""

    def __init__(self, most: Limit) -> None:
        self._most = most
        self._tokens = most.tokens
        self._good = 0

    @property
    def limit(self) -> Limit:
        """For the next batch."""
        return Limit(self._most.texts, self._tokens)

    def ran_out(self, tokens: int) -> None:
        """A batch of `tokens` did not fit: no more than half of it from now on."""
        self._tokens = max(1, min(self._tokens, tokens) // 2)
        self._good = 0

    def succeeded(self) -> None:
        """A batch fitted. After `RECOVERY_BATCHES` of them the budget doubles, up to where it began."""
        self._good += 1
        if self._good >= RECOVERY_BATCHES and self._tokens < self._most.tokens:
            self._tokens = min(self._most.tokens, self._tokens * 2)
            self._good = 0
