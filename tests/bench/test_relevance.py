"""The relevance benchmark: its measures, its queries and its report."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.paths import SAMPLE_REVIEWS
from bench.relevance import report
from bench.relevance.corpus import HELD_OUT, CandidateSets, JudgedQuery, held_out, rows_of, tuning
from bench.relevance.measures import DEPTH, MEASURES, interval, score_ranking
from bench.relevance.report import FusionParameters
from standins.grammar import frames_of
from standins.relevance import CHATTY_FRAMES, RelevanceJudgements, sample_opinions
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


def test_tuning_queries_share_no_phrase_with_held_out_ones() -> None:
    """Nor a text nor a frame; there are enough of them, and each has reviews that are right."""
    kept = [query for query in held_out() if query.dish is None]
    frames = (frames_of(False).query, CHATTY_FRAMES)
    assert not {*frames[0], *frames[1]} & {*frames_of(True).query}
    asked = {_phrase(query.text, frames_of(True).query) for query in kept}
    for made, own in zip(tuning().values(), frames, strict=True):
        queries = [query for query in made if query.dish is None]
        assert len(queries) > 2 * len(kept)
        assert all(query.says and query.labelled for query in [*queries, *kept])
        cut = {_phrase(query.text, own) for query in queries}
        assert not cut & asked


def _phrase(text: str, frames: Sequence[str]) -> str:
    """What stands where the frame has subject and predicate, particles left out."""
    for frame in frames:
        before, _, after = frame.partition("{adn}")
        start = before.partition("{")[0]
        if text.startswith(start) and text.endswith(after) and "{adn}" in frame:
            words = text.removeprefix(start).removesuffix(after).split()
            return " ".join(word.rstrip("이가은는") for word in words)
    return text


def test_queries_about_dishes_are_answered_by_reviews_that_name_them() -> None:
    """By both judgements; no dish of a tuning query is in a held-out one."""
    texts = {row["review_id"]: row["text"] for row in rows_of(SAMPLE_REVIEWS)}
    dishes = []
    for queries in (*tuning().values(), held_out()):
        about = [query for query in queries if query.dish is not None]
        assert len(about) > 100
        for query in about:
            assert query.dish is not None
            assert query.dish in query.text.split()
            assert query.says & query.labelled
            assert all(query.dish in texts[review_id] for review_id in query.says | query.labelled)
        dishes.append({query.dish for query in about})
    assert not (dishes[0] | dishes[1]) & dishes[2]
    held = {row["text"] for row in rows_of(HELD_OUT)}
    assert all(query.text.removeprefix(f"{query.dish} ") in held for query in held_out() if query.dish)


def test_a_dish_is_named_by_a_word_of_its_own() -> None:
    """A soup that has its name within its own is another dish."""
    answers = RelevanceJudgements()
    assert answers.naming_dish("순대")
    assert not answers.naming_dish("순대") & answers.naming_dish("순대국")


def test_the_report_compares_and_fusion_is_chosen_by_its_least_gain(tmp_path: Path) -> None:
    """Words that put right what vectors have wrong gain something, kind by kind; the best fusion comes first."""
    queries = [JudgedQuery(str(number), RIGHT, RIGHT, "만두" if number % 2 else None) for number in range(9)]
    cosines = {**{f"x{number}": 0.9 - number / 100 for number in range(9)}, "a": 0.8, "b": 0.7}
    words = {f"x{number}": 130.0 for number in range(9)} | {"b": 120.0, "a": 110.0}
    found = [CandidateSets(cosines, words, cosines, {"a": 0.0, "b": 0.0, "x1": 0.5})] * len(queries)
    report.write_comparison(tmp_path, HEAD, {"tuning": (queries, found)})
    made = json.loads((tmp_path / "relevance.json").read_text())["sets"]["tuning"]
    assert [made[kind]["says"]["gains"]["vector"]["nDCG@10"]["mean"] > 0 for kind in made] == [True] * 3
    report.write_tuning(
        tmp_path, HEAD, {"tuning": (queries, found)}, [FusionParameters(0.001, 192), FusionParameters(0.5, 192)]
    )
    lines = (tmp_path / "relevance-tuning.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| 0.5", "| 0.001"]
