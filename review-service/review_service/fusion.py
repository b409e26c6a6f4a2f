"""What vectors and words say of a thing, as one score. Pure."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

SCALE = 150.0
"""The BM25 that counts as much as a cosine of 1; for a query of a few words the best is about 120."""
POWER = 3.0
"""Above 1, words count where they stand out, as a name does that few have. `bench.relevance --tune` shows what other
figures come to."""


def fuse(
    cosines: Mapping[T, float], scores: Mapping[T, float], scale: float = SCALE, power: float = POWER
) -> list[tuple[T, float]]:
    """Things with their cosine plus (BM25 / scale) ** power, best first.

    Args:
        cosines: of all things.
        scores: BM25 of those that words have found.
    """
    fused = {thing: cosine + (scores.get(thing, 0.0) / scale) ** power for thing, cosine in cosines.items()}
    return sorted(fused.items(), key=lambda scored: -scored[1])
