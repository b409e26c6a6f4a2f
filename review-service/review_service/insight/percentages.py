"""Converts counts to whole percentages. Pure."""

from collections.abc import Sequence


def percentages(counts: Sequence[int]) -> list[int]:
    """Convert counts to whole percentages that sum to 100, by the largest remainder method.

    Each percentage is rounded down. The missing points go to the counts with the largest remainders.

    Args:
        counts: Counts, each at least 0.

    Returns:
        The percentages, in the order of the counts; all 0 if the counts are.
    """
    total = sum(counts)
    if total == 0:
        return [0] * len(counts)
    shares = [count * 100 // total for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda index: counts[index] * 100 % total, reverse=True)
    for index in by_remainder[: 100 - sum(shares)]:
        shares[index] += 1
    return shares
