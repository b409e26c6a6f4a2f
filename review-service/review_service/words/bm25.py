"""BM25 of one review, by its terms alone. Pure.

LanceDB finds reviews by BM25, but only those that have the most of it, and by its index's own counts. What a search
makes of a review is computed here instead, so that it is the same by whichever half the review was found.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

K1, B = 1.2, 0.75
"""LanceDB's, and Lucene's defaults."""


def term_scores(terms: Sequence[str], weights: Mapping[str, float], mean_length: float) -> dict[str, float]:
    """Compute what each term of a query adds to the score of a review.

    Args:
        terms: The review's terms, each as often as it has it.
        weights: Terms of the query with the score of a review of average length that has the term once.
        mean_length: Mean number of terms of a review; 0 if it is not known.

    Returns:
        Scores of the terms that the review has, in the order of `weights`.
    """
    counts = Counter(term for term in terms if term in weights)
    length = len(terms) / mean_length if mean_length else 1.0
    norm = K1 * (1 - B + B * length)
    return {
        term: weight * (K1 + 1) * counts[term] / (counts[term] + norm)
        for term, weight in weights.items()
        if term in counts
    }
