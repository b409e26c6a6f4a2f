"""Counts that fade: a visit weighs half as much after each half-life. Pure.

Fading every count as time passes would take a sweep over all of them. Here time raises what is added instead
(forward decay: Cormode, Shkapenyuk, Srivastava and Xu, "Forward Decay: A Practical Time Decay Model for Streaming
Systems", ICDE 2009): a visit at time t adds 2^(t / half-life), so that all that is kept stands as it is, in an order
that time does not change. Kept is the logarithm of the sum, which grows by one a half-life and never overflows.

Only so many subjects are kept. A new one takes the place of the least, and takes its count over (Space-Saving:
Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams", ICDT 2005):
of N kept, every subject with more than 1/N of all visits is among them, and no count is too high by more than the
least one.
"""

import math

Score = float
"""Of a subject: the base-2 logarithm of its visits, each raised by its time."""


def add_visits(score: Score | None, visits: float, now_seconds: float, half_life_seconds: float) -> Score:
    """The score after `visits` more (above 0); `score` is None for a subject without any before."""
    added = now_seconds / half_life_seconds + math.log2(visits)
    if score is None:
        return added
    high, low = max(score, added), min(score, added)
    return high + math.log2(1 + 2 ** (low - high))


def decayed_visits(score: Score, now_seconds: float, half_life_seconds: float) -> float:
    """What the subject's visits weigh at a time not before the last of them."""
    return float(2 ** (score - now_seconds / half_life_seconds))
