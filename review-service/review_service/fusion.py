"""Two rankings into one. Pure."""

from collections.abc import Hashable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

SMOOTHING = 10
"""Of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009). They take 60, with which a place on both lists
counts for more than a high one on either; with 10 the first result was right more often."""


def fuse(rankings: Sequence[tuple[float, Sequence[T]]]) -> list[tuple[T, float]]:
    """What stands in the rankings with the sum of its weighted reciprocal ranks, best first.

    Args:
        rankings: a weight, and things in their order, each once.
    """
    scores: dict[T, float] = {}
    for weight, ranking in rankings:
        for rank, thing in enumerate(ranking, 1):
            scores[thing] = scores.get(thing, 0.0) + weight / (SMOOTHING + rank)
    return sorted(scores.items(), key=lambda scored: -scored[1])
