"""Figures out of samples. Pure."""

import math
from collections.abc import Sequence
from statistics import median


def percentile(samples: Sequence[float], share: float) -> float | None:
    """The smallest sample that at least `share` (0 to 1) of all are not above; None without samples."""
    if not samples:
        return None
    rank = max(1, math.ceil(share * len(samples)))
    return sorted(samples)[rank - 1]


def median_of_present(values: Sequence[float | None]) -> float | None:
    """The median of those that are there."""
    there = [value for value in values if value is not None]
    return median(there) if there else None


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """`ours / theirs`, or None where one is missing or nothing can be divided by."""
    return ours / theirs if ours is not None and theirs else None
