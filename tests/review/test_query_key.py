"""Which counts of the stored terms make another cache key of a search."""

import pytest

from onecard.cache.keys import canonical
from review_service.search.query_key import query_key
from review_service.words.query import QueryParser
from review_service.words.synonyms import parse_search_words
from review_service.words.vocabulary import Vocabulary
from tests.review.support import analyzer

BEFORE = {"주차": 400, "국물": 90, "김치": 300, "부대찌개": 50}


def key(text: str, counts: dict[str, int], reviews: int) -> bytes:
    vocabulary = Vocabulary(counts, reviews)
    parser = QueryParser(analyzer().terms, vocabulary, parse_search_words("", "", ""))
    return canonical(query_key(parser.parse(text), vocabulary))


@pytest.mark.parametrize("text", ["주차", "국물이 진한 집", "만두", '"김치" 주차', "!"])
def test_writes_that_change_a_querys_words_little_leave_its_key(text: str) -> None:
    """A review more, also one with the query's word, and many more in the same proportion."""
    before = key(text, BEFORE, 10_000)
    assert key(text, {**BEFORE, "주차": 401}, 10_001) == before
    assert key(text, {term: round(1.05 * count) for term, count in BEFORE.items()}, 10_500) == before


@pytest.mark.parametrize(
    ("text", "learned"),
    [
        pytest.param("만두", {"만두": 300}, id="a new word"),
        pytest.param("만두 주차", {"만두": 300}, id="a new word of two"),
        pytest.param("주차", {"주차": 4000}, id="a word that has become frequent"),
        pytest.param("ㅂㄷㅉㄱ", {"부대찌개": 0, "바닷찌개": 60}, id="another word with these consonants"),
        pytest.param("rlacl", {"김치": 0}, id="a word that is gone"),
    ],
)
def test_a_count_that_reads_a_query_otherwise_makes_another_key(text: str, learned: dict[str, int]) -> None:
    """So that no answer is found that was made before the count."""
    counts = {term: count for term, count in {**BEFORE, **learned}.items() if count}
    assert key(text, counts, 10_000) != key(text, BEFORE, 10_000)


def test_a_search_among_no_reviews_has_a_key() -> None:
    """Nothing weighs anything then."""
    assert key("주차", {}, 0) == key("주차", {}, 0)
    assert key("주차", {}, 0) != key("주차", {"주차": 1}, 1)
