"""Statistics of samples. Pure."""

import math
from collections.abc import Sequence
from statistics import median


def percentile(samples: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile: the smallest sample that a `share` (0 to 1) of all do not exceed; None if empty."""
    if not samples:
        return None
    rank = max(1, math.ceil(share * len(samples)))
    return sorted(samples)[rank - 1]


def median_of_present(values: Sequence[float | None]) -> float | None:
    """Median of the values that are not None; None if there are none."""
    there = [value for value in values if value is not None]
    return median(there) if there else None


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Compute `ours / theirs`; None if one is missing or `theirs` is 0."""
    return ours / theirs if ours is not None and theirs else None
