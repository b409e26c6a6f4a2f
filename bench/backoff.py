"""Out-of-memory back-off with torch alone: run a list of lengths in batches, halve the budget when the card is full."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

Run = Callable[[int, int], object]
"""Runs a batch of so many texts, each padded to so many tokens."""


@dataclass
class BackOff:
    """What happened."""

    texts: int = 0
    """Run to the end."""
    batches: int = 0
    refused: int = 0
    """Texts that do not fit alone."""
    budgets: list[int] = field(default_factory=list)
    """Padded tokens allowed in a batch: at the start, and after each halving."""


def run_all(lengths: Sequence[int], budget: int, run: Run, empty_cache: Callable[[], None]) -> BackOff:
    """Run every text once, longest first, under `budget` padded tokens a batch.

    A batch that runs out of memory is tried again under half its budget; a single text that does is refused and the
    rest goes on.

    Args:
        empty_cache: gives cached blocks back, so that the next try does not meet the same fragments.
    """
    left = sorted(lengths, reverse=True)
    outcome = BackOff(budgets=[budget])
    while left:
        longest = left[0]
        count = min(len(left), max(1, budget // longest))
        try:
            run(count, longest)
        except torch.OutOfMemoryError:
            full = True
        else:
            full = False
        # The next try comes after the except block: until then the exception keeps the failed batch's tensors alive.
        if not full:
            outcome.texts += count
            outcome.batches += 1
            del left[:count]
        elif count == 1:
            outcome.refused += 1
            del left[0]
        else:
            budget = max(1, count * longest // 2)
            outcome.budgets.append(budget)
        if full:
            empty_cache()
    return outcome
