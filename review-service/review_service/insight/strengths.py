"""Finds the aspects in which a restaurant is better or worse than the others. Pure.

For each aspect, the share of positive opinions is compared between the restaurant and all others; an opinion is what a
review's clauses say of the aspect. Shares of few opinions differ by chance, so a difference counts only if it is
statistically significant: by the z score of Agresti and Caffo's interval, which adds one positive and one negative
opinion to both sides ("Simple and Effective Confidence Intervals for Proportions and Differences of Proportions", The
American Statistician, 2000).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

MIN_REVIEWS = 5
"""Minimum number of reviews that mention an aspect, of the restaurant and of the others each."""
MIN_Z = 1.645
"""Minimum z score of a strength, and as a negative number of a weakness. Each occurs by chance in 5 % of all cases."""


@dataclass(frozen=True)
class AspectCounts:
    """Numbers of opinions on one aspect."""

    positive: int
    total: int

    @property
    def negative(self) -> int:
        """Number of negative opinions."""
        return self.total - self.positive

    def minus(self, part: "AspectCounts") -> "AspectCounts":
        """Subtract the counts of a subset of the reviews."""
        return AspectCounts(self.positive - part.positive, self.total - part.total)


@dataclass(frozen=True)
class AspectDifference:
    """One aspect, for a restaurant and for the others."""

    aspect: str
    own: AspectCounts
    others: AspectCounts
    z: float
    """The difference in standard errors; above 0 if the restaurant is better than the others."""


def z_score(own: AspectCounts, others: AspectCounts) -> float:
    """Compute the difference of two shares of positive reviews in standard errors (Agresti and Caffo, 2000).

    Args:
        own: Counts of the restaurant.
        others: Counts of the other restaurants.

    Returns:
        The difference; above 0 if the restaurant's share is larger.
    """
    share, variance = _smoothed_share(own)
    other_share, other_variance = _smoothed_share(others)
    return (share - other_share) / math.sqrt(variance + other_variance)


def _smoothed_share(counts: AspectCounts) -> tuple[float, float]:
    """Share of positive reviews and its variance, with one positive and one negative review added."""
    trials = counts.total + 2
    share = (counts.positive + 1) / trials
    return share, share * (1 - share) / trials


def significant_differences(
    own_counts: Mapping[str, AspectCounts], all_counts: Mapping[str, AspectCounts]
) -> list[AspectDifference]:
    """Find the aspects in which a restaurant differs significantly from the others.

    Args:
        own_counts: Counts of the restaurant's reviews, by aspect.
        all_counts: Counts of all reviews, the restaurant's included, by aspect; has at least the same aspects.

    Returns:
        The differences, best first.
    """
    differences: list[AspectDifference] = []
    for aspect, own in own_counts.items():
        others = all_counts[aspect].minus(own)
        if own.total < MIN_REVIEWS or others.total < MIN_REVIEWS:
            continue
        z = z_score(own, others)
        if abs(z) >= MIN_Z:
            differences.append(AspectDifference(aspect, own, others, z))
    return sorted(differences, key=lambda difference: -difference.z)
