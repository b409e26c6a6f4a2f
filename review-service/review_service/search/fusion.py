"""Fuses what words and what meaning say of a review into one score from 0 to 1. Pure.

Both scales are fixed: neither depends on what else a search finds, so that a score means the same in every search.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from review_service.schemas import Mode

WORD_WEIGHT = 0.3
"""Share of the words in a hybrid score."""


@dataclass(frozen=True)
class WordScale:
    """Maps BM25 scores of a query to 0 … 1."""

    ideal: float
    """BM25 that a review of average length has if it has each term of the query once."""

    def score(self, bm25: float) -> float:
        """Map a BM25 score: the share of the query's words that a review has, weighted by their rarity.

        Args:
            bm25: From 0.

        Returns:
            1 for a review of average length with all words; a longer one has less.
        """
        return min(1.0, bm25 / self.ideal) if self.ideal > 0 else 0.0


@dataclass(frozen=True)
class Match:
    """A review that matches a search, with its scores from 0 to 1."""

    row: int
    score: float
    words: float
    """Of the keyword search; 0 if it did not find the review."""
    meaning: float
    """Of the vector search; 0 if there is no vector."""


def fuse(words: float, meaning: float) -> float:
    """Compute a hybrid score.

    Args:
        words: Score of the words, from 0 to 1.
        meaning: Score of the meaning, from 0 to 1.

    Returns:
        Their weighted mean.
    """
    return WORD_WEIGHT * words + (1 - WORD_WEIGHT) * meaning


def rank(meaning: Mapping[int, float], words: Mapping[int, float], mode: Mode) -> list[Match]:
    """Rank reviews.

    Args:
        meaning: Scores of the meaning, by row.
        words: Scores of the words, by row.
        mode: What the score is: one of the two, or both fused.

    Returns:
        All reviews of either, best first.
    """
    matches = []
    for row in dict.fromkeys((*meaning, *words)):
        own, other = words.get(row, 0.0), meaning.get(row, 0.0)
        score = {"keyword": own, "vector": other, "hybrid": fuse(own, other)}[mode]
        matches.append(Match(row, score, own, other))
    return sorted(matches, key=lambda match: -match.score)
