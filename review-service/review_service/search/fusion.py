"""Fuses what words and what meaning say of a review into one score from 0 to 1. Pure.

All scales are fixed: none depends on what else a search finds. The figures were chosen on real Korean text by
`make bench-relevance`, on the even groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from review_service.schemas import Mode

WORD_WEIGHT = 0.4
"""Share of the words in a hybrid score; the rest is the share of the meaning."""
RARE_WORDS = 5.3
"""So many words that a single review has make a rarity of one half."""
COVERED_WEIGHT, COVERED_MEANING = 0.25, 0.3
"""Shares of coverage and meaning in the minimum of a score: a short query's words tell little, but may be all it has,
as with a name."""
OPPOSITE_PENALTY = 0.14
"""Subtracted for a full coverage if the review says the opposite of the query."""
UNKNOWN_FACTOR = 0.25
"""Factor of the meaning of a query of which no review has a word: encoders find something near to any nonsense."""


@dataclass(frozen=True)
class WordScale:
    """Maps BM25 scores of a query to 0 … 1."""

    ideal: float
    """BM25 that a review of average length has if it has each term of the query once."""
    unique: float
    """BM25 of a term that a single review has."""

    def coverage(self, bm25: float) -> float:
        """Compute the share of the query's words that a review has, weighted by their rarity.

        Args:
            bm25: From 0.

        Returns:
            1 for a review of average length with all words; a longer one has less.
        """
        return min(1.0, bm25 / self.ideal) if self.ideal > 0 else 0.0

    def rarity(self, bm25: float) -> float:
        """Compute how much a review's words tell, whatever the length of the query.

        Args:
            bm25: From 0.

        Returns:
            From 0 towards 1; it never stops to grow, so that no two reviews are equal by it alone.
        """
        return bm25 / (bm25 + RARE_WORDS * self.unique) if bm25 > 0 else 0.0


@dataclass(frozen=True)
class WordScore:
    """What a review's words say."""

    coverage: float
    rarity: float
    opposed: bool
    """Whether the review says the opposite of the query."""


@dataclass(frozen=True)
class Match:
    """A review that matches a search, with its scores from 0 to 1."""

    review_id: str
    score: float
    words: float
    """Coverage of the query's words; 0 if the review has none of them."""
    meaning: float
    """Of the vector search; 0 if there is no vector."""


NO_WORDS = WordScore(0.0, 0.0, opposed=False)


def scale_meaning(score: float, known: float) -> float:
    """Lower the score of the meaning of a query whose words no review has.

    Args:
        score: Cosine, scaled to 0 … 1.
        known: Share of the query's words that any review has, weighted by their rarity.

    Returns:
        From 0 to `score`.
    """
    return score * (UNKNOWN_FACTOR + (1 - UNKNOWN_FACTOR) * known)


def fuse(words: WordScore, meaning: float) -> float:
    """Compute a hybrid score.

    Args:
        words: What the review's words say.
        meaning: Score of the meaning, from 0 to 1.

    Returns:
        The weighted mean of both, or what the coverage is worth if that is more; less for an opposite. From 0 to 1.
    """
    penalty = OPPOSITE_PENALTY * words.coverage if words.opposed else 0.0
    mean = WORD_WEIGHT * words.rarity + (1 - WORD_WEIGHT) * meaning
    return max(0.0, max(mean, COVERED_WEIGHT * words.coverage + COVERED_MEANING * meaning) - penalty)


def rank(meaning: Mapping[str, float], words: Mapping[str, WordScore], mode: Mode) -> list[Match]:
    """Rank reviews.

    Args:
        meaning: Scores of the meaning, by review id.
        words: What the words say, by review id.
        mode: What the score is: coverage of the words, meaning, or both fused.

    Returns:
        All reviews of either, best first; equal ones in the given order.
    """
    matches = []
    for review_id in dict.fromkeys((*meaning, *words)):
        said, meant = words.get(review_id, NO_WORDS), meaning.get(review_id, 0.0)
        score = {"keyword": said.coverage, "vector": meant, "hybrid": fuse(said, meant)}[mode]
        matches.append(Match(review_id, score, said.coverage, meant))
    return sorted(matches, key=lambda match: -match.score)
