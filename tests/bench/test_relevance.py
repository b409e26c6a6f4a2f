"""The relevance benchmark: its measures, its queries and its report."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.paths import SAMPLE_REVIEWS
from bench.relevance import __main__ as report
from bench.relevance.corpus import JudgedQuery, hard, nonsense, rows_of
from bench.relevance.measures import DEPTH, MEASURES, interval, score_ranking
from bench.relevance.searches import Found
from standins.relevance import RelevanceJudgements, sample_opinions
from tests.bench.test_report import HEAD

RIGHT = frozenset({"a", "b"})


def test_measures_of_known_rankings() -> None:
    """The first right one, how high all stand, and how many are there."""
    assert score_ranking(["a", "b", "x"], RIGHT) == dict.fromkeys(MEASURES, 1.0)
    assert score_ranking(["x", "a"], RIGHT) == pytest.approx(
        {"MRR@10": 0.5, "nDCG@10": 0.3869, "recall@10": 0.5}, abs=1e-4
    )
    assert score_ranking(["x", "y"], RIGHT) == dict.fromkeys(MEASURES, 0.0)


@given(st.permutations(range(30)), st.sets(st.integers(0, 29), min_size=1))
def test_only_the_first_ten_count_and_right_ones_first_are_best(ranking: list[int], right: set[int]) -> None:
    """Every measure lies from 0 to 1, and is 1 where all that is right comes first."""
    figures = score_ranking(ranking, right)
    assert figures == score_ranking(ranking[:DEPTH], right)
    assert all(0 <= value <= 1 for value in figures.values())
    best = score_ranking(sorted(ranking, key=lambda thing: thing not in right), right)
    assert best == pytest.approx(dict.fromkeys(MEASURES, 1.0))


def test_an_interval_holds_the_mean_difference() -> None:
    """And nothing else where every query gains the same."""
    low, high = interval([0.4, 0.9, 0.2, 0.8], [0.1, 0.7, 0.3, 0.5])
    assert low < 0.175 < high
    assert interval([0.5] * 20, [0.25] * 20) == pytest.approx((0.25, 0.25))


def test_what_reviews_say_goes_with_what_they_are_labelled() -> None:
    """The same aspects; a review that says one thing alone is labelled so."""
    said = sample_opinions()
    for row in rows_of(SAMPLE_REVIEWS):
        opinions = said[row["review_id"]]
        assert sorted(one.aspect for one in opinions) == sorted(row["aspects"])
        if len(opinions) == 1:
            assert {one.positive for one in opinions} == {row["sentiment"] == "positive"}


def test_a_dish_is_named_by_a_word_of_its_own() -> None:
    """A soup that has its name within its own is another dish."""
    answers = RelevanceJudgements()
    assert answers.naming_dish("순대")
    assert not answers.naming_dish("순대") & answers.naming_dish("순대국")


def found(*ids: str) -> Found:
    """Results with falling scores, the last of which lies below the default minimum."""
    return Found(list(ids), [0.9 - 0.8 * place / max(1, len(ids) - 1) for place in range(len(ids))])


def test_gains_opposites_and_lost_results_are_counted() -> None:
    """Hybrid search that is right where the others put the opposite first gains half of the reciprocal rank."""
    queries = [JudgedQuery("q", frozenset({"a"}), frozenset({"o"}))] * 4
    results = {
        "vector": [found("o", "a", "x")] * 4,
        "keyword": [found("o", "x", "a")] * 4,
        "hybrid": [found("a", "o", "x")] * 4,
    }
    made = report.compare(queries, results)
    assert made["gains"]["vector"]["MRR@10"] == {"mean": 0.5, "interval": (0.5, 0.5)}
    assert (made["opposite_above"]["vector"], made["opposite_above"]["hybrid"]) == (1, 0)
    assert made["opposite_difference"] == {"mean": -1, "interval": (-1, -1)}
    assert (made["dropped"]["keyword"], made["dropped"]["hybrid"]) == (1, 0)


def test_a_hard_query_is_answered_by_its_first_three_results() -> None:
    """By one that is wanted, with nothing unwanted above it, at the default minimum score."""
    query = JudgedQuery("q", frozenset({"a"}), frozenset({"o"}))
    assert report.answered(query, found("x", "a", "o", "y"))
    assert not report.answered(query, found("o", "a", "x"))
    assert not report.answered(query, found("x", "a"))
    assert not report.answered(query, found("x", "y", "z", "a", "w"))


def test_the_report_names_what_did_not_hold() -> None:
    """The hard queries that were not answered, and the nonsense that found something."""
    queries = [JudgedQuery("q", frozenset({"a"}))]
    compared = report.compare(queries, {mode: [found("a", "x")] for mode in ("vector", "keyword", "hybrid")})
    document = {
        "machine": HEAD,
        "corpora": {"Real": compared},
        "hard": {"짬봉": True, "혼밥": False},
        "nonsense": 20,
        "nonsense_found": ["asdf"],
    }
    text = report.as_markdown(document)
    assert "1 of 2 hard queries" in text
    assert "«혼밥»" in text
    assert "«asdf»" in text


def test_the_cases_are_whole() -> None:
    """Twenty of each; what is wanted or unwanted is there, and no review is both."""
    corpus = hard()
    ids = {review.review_id for review in corpus.reviews}
    assert (len(corpus.queries), len(set(nonsense()))) == (20, 20)
    assert all(query.right and query.right | query.opposite <= ids for query in corpus.queries)
    assert not any(query.right & query.opposite for query in corpus.queries)
