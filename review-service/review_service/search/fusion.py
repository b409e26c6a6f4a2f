"""Fuses the scores of a vector search and a keyword search into one. Pure."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

KEYWORD_WEIGHT = 0.5
"""Added to the cosine for a common word that no other document has."""
RARITY_POWER = 192
"""The larger it is, the rarer a word must be to count. `bench.relevance --tune` compares other values."""


def rarity_weight(frequency: float, power: float = RARITY_POWER) -> float:
    """Compute the weight of a word from its document frequency: (1 - frequency)^power.

    Args:
        frequency: Share of the other documents that have the word, from 0 to 1.
        power: How fast the weight falls with the frequency.

    Returns:
        Probability that none of `power` documents drawn at random has the word, from 0 to 1.
    """
    return float((1 - frequency) ** power)


def fuse(
    cosines: Mapping[T, float],
    frequencies: Mapping[T, float],
    weight: float = KEYWORD_WEIGHT,
    power: float = RARITY_POWER,
) -> list[tuple[T, float]]:
    """Rank documents by their cosine plus the weighted rarity of a word that they share with the query.

    Args:
        cosines: Cosine with the query, by document.
        frequencies: Document frequency of the rarest word in common with the query, by document. Documents without such
            a word are missing.
        weight: Score of a word that no other document has.
        power: As for `rarity_weight`.

    Returns:
        Documents with their scores, from −1 to 1 + `weight`, best first.
    """
    fused = {
        key: cosine + (weight * rarity_weight(frequencies[key], power) if key in frequencies else 0.0)
        for key, cosine in cosines.items()
    }
    return sorted(fused.items(), key=lambda scored: -scored[1])
