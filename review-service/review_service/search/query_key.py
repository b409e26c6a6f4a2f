"""What a search's results owe to the count of the stored terms, as a part of their cache key. Pure.

Not a version of the count: every write leads to another count sooner or later, and a restaurant's searches, which are
cached while its own reviews are the same, would be computed anew after writes to any other restaurant. Replicas, which
count at different times, would not find each other's answers. What matters is how this query is read and how much its
words weigh. That rarely changes, but does when a count learns the words of the query.
"""

import math

from onecard.cache.keys import JsonValue
from review_service.words.query import ParsedQuery
from review_service.words.vocabulary import Vocabulary

WEIGHT_STEPS = 10
"""Weights count as equal within about 1/10, and so does the length of an average review."""
KNOWN_STEPS = 10
"""As well the share of the words that any review has, which lies between 0 and 1."""
_MIN_WEIGHT = 1e-3


def query_key(query: ParsedQuery, vocabulary: Vocabulary) -> JsonValue:
    """Make the part of a search's cache key that depends on the vocabulary.

    Args:
        query: The query, read with the vocabulary.
        vocabulary: The terms of the stored reviews.

    Returns:
        Equal if the results are equal, up to a small difference of their scores.
    """
    measures = [query.ideal_score(vocabulary), vocabulary.unique_weight, vocabulary.mean_length]
    steps = [round(WEIGHT_STEPS * math.log(max(measure, _MIN_WEIGHT))) for measure in measures]
    # What the query opposes follows from how it is read and from the operator's words, which the key has, too.
    terms = [[term.text, *term.synonyms] for term in query.terms]
    return [query.text, list(query.phrases), terms, steps, round(KNOWN_STEPS * query.known_share(vocabulary))]
