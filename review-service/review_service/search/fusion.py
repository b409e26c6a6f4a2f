"""What vectors and words say of a thing, as one score. Pure."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

KEYWORD_WEIGHT = 0.5
"""What a word that nothing else has adds to a cosine."""
RARITY_POWER = 192
"""The larger, the rarer a word has to be. `bench.relevance --tune` shows what other figures come to."""


def rarity_weight(share: float, power: float = RARITY_POWER) -> float:
    """Of a word that so many of the other things have, 0 to 1: how likely it is that none of `power` of them, drawn
    blindly, has it."""
    return float((1 - share) ** power)


def fuse(
    cosines: Mapping[T, float], shares: Mapping[T, float], weight: float = KEYWORD_WEIGHT, power: float = RARITY_POWER
) -> list[tuple[T, float]]:
    """Things with their cosine plus `weight` times the rarity of a word, best first: −1 to 1 + `weight`.

    Args:
        cosines: of all things.
        shares: of those that have a word in common with the query: how many of the others have the rarest, too.
    """
    fused = {
        thing: cosine + (weight * rarity_weight(shares[thing], power) if thing in shares else 0.0)
        for thing, cosine in cosines.items()
    }
    return sorted(fused.items(), key=lambda scored: -scored[1])
