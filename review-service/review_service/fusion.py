"""Two rankings into one. Pure."""

from collections.abc import Hashable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

MEANING, WORDS = 0.9, 0.1
"""What a rank by vectors and one by words count: of the two, vectors are right more often."""
SMOOTHING = 10
"""Of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009). They take 60, with which a place on both lists
counts for more than a high one on either. `bench.relevance --tune` shows what other figures come to."""


def fuse(rankings: Sequence[tuple[float, Sequence[T]]], smoothing: float = SMOOTHING) -> list[tuple[T, float]]:
    """What stands in the rankings with the sum of its weighted reciprocal ranks, best first.

    Args:
        rankings: a weight, and things in their order, each once.
        smoothing: the larger, the less a place among the first counts.
    """
    scores: dict[T, float] = {}
    for weight, ranking in rankings:
        for rank, thing in enumerate(ranking, 1):
            scores[thing] = scores.get(thing, 0.0) + weight / (smoothing + rank)
    return sorted(scores.items(), key=lambda scored: -scored[1])
