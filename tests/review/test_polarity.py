"""Whether two texts say the opposite of each other."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from review_service.words import defaults
from review_service.words.polarity import DENIALS_AFTER, DENIALS_BEFORE, Antonyms, Opposition, parse_antonyms
from review_service.words.synonyms import parse_search_words
from tests.review.support import analyzer

ANTONYMS = parse_antonyms(defaults.ANTONYMS)


STOP_WORDS = parse_search_words("", defaults.STOP_WORDS, "").stop_words


def oppose(one: Sequence[str], other: Sequence[str], antonyms: Antonyms = ANTONYMS) -> bool:
    """Whether the second text opposes the first."""
    return bool(Opposition.to(one, antonyms, STOP_WORDS).subjects(other))


def opposed(one: str, other: str) -> bool:
    """Whether two sentences oppose each other, taken apart as the service does it."""
    return oppose(*(analyzer().indexed(text, None).split() for text in (one, other)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("소음이 들려요", "소음이 들리지 않아요"),
        ("방이 넓은 편은 아니었습니다", "방은 매우 컸습니다"),
        ("체크인이 간단했습니다", "체크인이 복잡했습니다"),
        ("매장이 따뜻해요", "매장이 추웠습니다"),
        ("불편한 점이 없어요", "불편해요"),
        ("주차는 불편 없이 했어요", "주차가 불편했어요"),
        ("안 비싸요", "비싸요"),
        ("직원이 친절해요", "직원이 불친절해요"),
    ],
)
def test_opposites(one: str, other: str) -> None:
    """By denials before and behind, also over a bound noun, and by antonyms."""
    assert opposed(one, other)
    assert opposed(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("방이 넓은 편은 아니었습니다", "방이 좀 작아요"),
        ("안 비싸요", "저렴해요"),
        ("국물이 짜지 않아요", "국물이 싱거워요"),
        ("불편한 점이 없어요", "덕분에 불편함 없이 즐겼어요"),
        ("체크인이 간단하지 않았어요", "체크인이 복잡한 것 말고는 만족해요"),
        ("맛있고 조용해요", "맛있지만 시끄러울 때도 조용할 때도 있어요"),
        ("짬뽕이 맛있어요", "주차장이 없어요"),
        ("", "맛없어요"),
        ("고기 많이 들어간 국밥", "국밥이 빨리 나오고 고기가 좋다"),
        ("따뜻한 국물", "국물 좋고 자리가 꽉 차서 기다렸어요"),
        ("데이트하기 좋을 것 같은 곳", "데이트하기 좋고 맛이 달라요"),
        ("진짜 맛집", "거짓말 안 보태고 맛집"),
    ],
)
def test_no_opposites(one: str, other: str) -> None:
    """The same said otherwise, both sides said, *except*, homonyms, stop words, and what has nothing in common."""
    assert not opposed(one, other)


WORDS = st.lists(st.sampled_from([*ANTONYMS, *DENIALS_BEFORE, *DENIALS_AFTER, "것", "편", "직원", "국물"]), max_size=12)


@given(WORDS, WORDS)
def test_it_is_symmetric_and_nothing_opposes_itself(one: list[str], other: list[str]) -> None:
    """Whatever the terms are."""
    assert not oppose(one, one)
    assert oppose(one, other) == oppose(other, one)


@given(st.sampled_from(sorted(ANTONYMS)), st.lists(st.sampled_from(["직원", "국물"]), max_size=3))
def test_a_denial_behind_is_the_other_side(term: str, before: list[str]) -> None:
    """And a second one is the first side again."""
    said = [*before, term]
    assert oppose(said, [*said, "않다"])
    assert not oppose(said, [*said, "없다", "않다"])


@pytest.mark.parametrize("line", ["넓다, 좁다", "넓다 <>", "<> 좁다", "넓다 <> ,"])
def test_a_line_without_two_sides_is_refused(line: str) -> None:
    """Rather than being ignored."""
    with pytest.raises(ValueError, match="antonyms"):
        parse_antonyms(f"길다 <> 짧다\n{line}")


def test_comments_and_several_pairs() -> None:
    """A word may belong to several pairs."""
    found = parse_antonyms("# size\n넓다,크다 <> 좁다 # narrow\n\n넓다 <> 좁아터지다")
    assert found["넓다"] == [("넓다 <> 좁다", 1), ("넓다 <> 좁아터지다", 1)]
    assert found["좁다"] == [("넓다 <> 좁다", -1)]
