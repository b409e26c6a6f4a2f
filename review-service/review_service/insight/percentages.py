"""Counts into whole percents. Pure."""

from collections.abc import Sequence


def percentages(counts: Sequence[int]) -> list[int]:
    """Whole percents of their sum, adding to 100; zeros where nothing was counted.

    By the largest remainder: each is rounded down, and the percents that are missing go to those that lost most.
    """
    total = sum(counts)
    if total == 0:
        return [0] * len(counts)
    shares = [count * 100 // total for count in counts]
    by_loss = sorted(range(len(counts)), key=lambda place: counts[place] * 100 % total, reverse=True)
    for place in by_loss[: 100 - sum(shares)]:
        shares[place] += 1
    return shares
