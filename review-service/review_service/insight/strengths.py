"""In what a restaurant is better, or worse, than the others. Pure.

For each aspect: the share of positive reviews among those that speak of it, here and elsewhere. Shares of few reviews
differ by chance, so that a difference counts only when it is large beside what chance makes of it: the z of Agresti and
Caffo's interval (The American Statistician, 2000), which adds one review of each kind to both sides.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

MIN_REVIEWS = 5
"""Reviews of a restaurant that must speak of an aspect."""
MIN_Z = 1.645
"""Chance alone goes beyond it in one case of twenty."""


@dataclass(frozen=True)
class AspectCounts:
    """Reviews that speak of one aspect."""

    positive: int
    total: int

    def minus(self, part: "AspectCounts") -> "AspectCounts":
        """The others."""
        return AspectCounts(self.positive - part.positive, self.total - part.total)


@dataclass(frozen=True)
class AspectDifference:
    """One aspect here and elsewhere."""

    aspect: str
    own: AspectCounts
    others: AspectCounts
    z: float
    """Above 0: better than the others; in standard errors."""


def z_score(here: AspectCounts, others: AspectCounts) -> float:
    """By how many standard errors the share of positive reviews here is above that of the others."""
    share, variance = _smoothed_share(here)
    other_share, other_variance = _smoothed_share(others)
    return (share - other_share) / math.sqrt(variance + other_variance)


def _smoothed_share(tally: AspectCounts) -> tuple[float, float]:
    trials = tally.total + 2
    share = (tally.positive + 1) / trials
    return share, share * (1 - share) / trials


def significant_differences(
    here: Mapping[str, AspectCounts], everywhere: Mapping[str, AspectCounts]
) -> list[AspectDifference]:
    """The aspects in which a restaurant differs from the others, best first.

    Args:
        here: by aspect, the restaurant's own reviews.
        everywhere: all reviews, its own included.
    """
    found: list[AspectDifference] = []
    for aspect, own in here.items():
        others = everywhere[aspect].minus(own)
        if own.total < MIN_REVIEWS or others.total < MIN_REVIEWS:
            continue
        z = z_score(own, others)
        if abs(z) >= MIN_Z:
            found.append(AspectDifference(aspect, own, others, z))
    return sorted(found, key=lambda difference: -difference.z)
