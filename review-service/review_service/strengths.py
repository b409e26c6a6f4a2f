"""In what a restaurant is better, or worse, than the others. Pure.

For each aspect: the share of positive reviews among those that speak of it, here and elsewhere. Shares of few reviews
differ by chance, so that a difference counts only when it is large beside what chance makes of it: the z of Agresti and
Caffo's interval (The American Statistician, 2000), which adds one review of each kind to both sides.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

FEWEST = 5
"""Reviews of a restaurant that must speak of an aspect."""
LEAST_Z = 1.645
"""Chance alone goes beyond it in one case of twenty."""


@dataclass(frozen=True)
class Tally:
    """Reviews that speak of one aspect."""

    positive: int
    total: int

    def without(self, part: "Tally") -> "Tally":
        """The others."""
        return Tally(self.positive - part.positive, self.total - part.total)


@dataclass(frozen=True)
class Difference:
    """One aspect here and elsewhere."""

    aspect: str
    here: Tally
    others: Tally
    z: float
    """Above 0: better than the others; in standard errors."""


def z_of(here: Tally, others: Tally) -> float:
    """By how many standard errors the share of positive reviews here is above that of the others."""
    share, variance = _smoothed(here)
    other_share, other_variance = _smoothed(others)
    return (share - other_share) / math.sqrt(variance + other_variance)


def _smoothed(tally: Tally) -> tuple[float, float]:
    trials = tally.total + 2
    share = (tally.positive + 1) / trials
    return share, share * (1 - share) / trials


def differences(here: Mapping[str, Tally], everywhere: Mapping[str, Tally]) -> list[Difference]:
    """The aspects in which a restaurant differs from the others, best first.

    Args:
        here: by aspect, the restaurant's own reviews.
        everywhere: all reviews, its own included.
    """
    found: list[Difference] = []
    for aspect, own in here.items():
        others = everywhere[aspect].without(own)
        if own.total < FEWEST or others.total < FEWEST:
            continue
        z = z_of(own, others)
        if abs(z) >= LEAST_Z:
            found.append(Difference(aspect, own, others, z))
    return sorted(found, key=lambda difference: -difference.z)
