"""How words and meaning are fused."""

from hypothesis import given
from hypothesis import strategies as st

from review_service.search.cosine_scale import CosineScale
from review_service.search.fusion import NO_WORDS, WordScale, WordScore, fuse, rank, scale_meaning

shares = st.floats(0, 1)
said = st.builds(WordScore, shares, shares, st.booleans())


@given(said, shares)
def test_a_score_lies_between_0_and_1(words: WordScore, meaning: float) -> None:
    """Whatever words and meaning say; without words it is the share of the meaning alone."""
    assert 0 <= fuse(words, meaning) <= 1
    assert fuse(NO_WORDS, meaning) <= meaning


@given(said, shares, shares)
def test_more_meaning_is_never_worse(words: WordScore, one: float, other: float) -> None:
    """With the same words."""
    assert fuse(words, min(one, other)) <= fuse(words, max(one, other))


@given(shares, shares, shares)
def test_an_opposite_is_never_better(coverage: float, rarity: float, meaning: float) -> None:
    """Than a review with the same words that denies as much as the query."""
    opposed, same = (WordScore(coverage, rarity, opposed) for opposed in (True, False))
    assert fuse(opposed, meaning) <= fuse(same, meaning)


@given(st.dictionaries(st.text(), shares), st.dictionaries(st.text(), said))
def test_all_candidates_come_out_once_best_first(meaning: dict[str, float], words: dict[str, WordScore]) -> None:
    """In each mode; a review that one half did not find has nothing of it."""
    for mode in ("keyword", "vector", "hybrid"):
        matches = rank(meaning, words, mode)  # type: ignore[arg-type]
        assert sorted(match.review_id for match in matches) == sorted({*meaning, *words})
        scores = [match.score for match in matches]
        assert scores == sorted(scores, reverse=True)


@given(shares, shares)
def test_a_query_whose_words_no_review_has_means_less(score: float, known: float) -> None:
    """The fewer are known, the less; with all words known nothing is lost."""
    assert scale_meaning(score, 0) <= scale_meaning(score, known) <= score + 1e-9
    assert abs(scale_meaning(score, 1) - score) < 1e-9


@given(st.floats(-1, 0.999), st.floats(-1, 1))
def test_a_scaled_cosine_lies_between_0_and_1(floor: float, cosine: float) -> None:
    """What unrelated texts have is 0, and the same text is 1."""
    scale = CosineScale(floor)
    assert 0 <= scale.score(cosine) <= 1
    assert (scale.score(floor), round(scale.score(1.0), 9)) == (0, 1)


@given(st.floats(0, 1000), st.floats(0, 1000), st.floats(0, 20))
def test_scales_of_words_are_bounded(bm25: float, ideal: float, unique: float) -> None:
    """Also without terms, and in a store without reviews."""
    scale = WordScale(ideal, unique)
    assert 0 <= scale.coverage(bm25) <= 1
    assert 0 <= scale.rarity(bm25) <= 1
