"""Visit counts with exponential decay: a visit weighs half as much after each half-life. Pure.

Decaying stored counts as time passes would mean updating all of them. Instead, later visits add more (forward decay:
Cormode, Shkapenyuk, Srivastava and Xu, "Forward Decay: A Practical Time Decay Model for Streaming Systems", ICDE 2009).
A visit at time t adds 2^(t / half-life), so a stored count changes only with a visit, and the order of the subjects
does not change with time. The stored score is the base-2 logarithm of the sum. It grows by 1 per half-life, so it does
not overflow.

The number of subjects is limited. A new subject replaces the one with the lowest score and starts with that score
(Space-Saving: Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams",
ICDT 2005). With N subjects, every subject with more than 1/N of all visits is stored, and the error of a count is at
most the lowest count.
"""

import math

Score = float
"""Base-2 logarithm of the sum of 2^(t / half-life) over a subject's visits."""


def add_visits(score: Score | None, visits: float, now_seconds: float, half_life_seconds: float) -> Score:
    """Add visits at the current time to a score.

    Args:
        score: The subject's score; None if it has no visits yet.
        visits: Number of visits, above 0.
        now_seconds: Current time in seconds.
        half_life_seconds: Time after which a visit counts half.

    Returns:
        The new score.
    """
    added = now_seconds / half_life_seconds + math.log2(visits)
    if score is None:
        return added
    high, low = max(score, added), min(score, added)
    return high + math.log2(1 + 2 ** (low - high))


def decayed_visits(score: Score, now_seconds: float, half_life_seconds: float) -> float:
    """Turn a score into the number of visits, each weighted by its age.

    Args:
        score: The subject's score.
        now_seconds: Current time in seconds, not before the last visit.
        half_life_seconds: Time after which a visit counts half.

    Returns:
        The weighted number of visits.
    """
    return float(2 ** (score - now_seconds / half_life_seconds))
