"""Whether two texts say the opposite of each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from review_service.words import defaults
from review_service.words.polarity import DENIALS_AFTER, DENIALS_BEFORE, opposites, parse_antonyms, stances
from tests.review.support import analyzer

ANTONYMS = parse_antonyms(defaults.ANTONYMS)


def opposed(one: str, other: str) -> bool:
    """Whether two sentences oppose each other, taken apart as the service does it."""
    return bool(opposites(*(stances(analyzer().indexed(text, None).split(), ANTONYMS) for text in (one, other))))


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
    ],
)
def test_no_opposites(one: str, other: str) -> None:
    """The same said otherwise, both sides said, *except*, and what has nothing in common."""
    assert not opposed(one, other)


WORDS = st.lists(st.sampled_from([*ANTONYMS, *DENIALS_BEFORE, *DENIALS_AFTER, "것", "편", "직원", "국물"]), max_size=12)


@given(WORDS, WORDS)
def test_it_is_symmetric_and_nothing_opposes_itself(one: list[str], other: list[str]) -> None:
    """Whatever the terms are."""
    first, second = stances(one, ANTONYMS), stances(other, ANTONYMS)
    assert not opposites(first, first)
    assert opposites(first, second) == opposites(second, first)


@given(st.sampled_from(sorted(ANTONYMS)), st.lists(st.sampled_from(["직원", "국물"]), max_size=3))
def test_a_denial_behind_is_the_other_side(term: str, before: list[str]) -> None:
    """And a second one is the first side again."""
    said, denied = (stances([*before, term, *more], ANTONYMS) for more in ([], ["않다"]))
    assert opposites(said, denied)
    assert not opposites(said, stances([*before, term, "없다", "않다"], ANTONYMS))


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
