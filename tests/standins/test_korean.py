"""Particles and endings."""
# ruff: noqa: E501 (a Korean syllable counts as two columns)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standins.korean import Predicate, final_of, particle, with_final
from standins.lexicon import aspects

SYLLABLES = st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3)


@pytest.mark.parametrize(
    ("written", "ending", "expected"),
    [
        ("친절하", "yo", "친절해요"), ("친절하", "adn", "친절한"), ("맛있", "past", "맛있었어요"), ("좋", "yo", "좋아요"),
        ("아쉽:p", "yo", "아쉬워요"), ("아쉽:p", "um", "아쉬움"), ("길", "ne", "기네요"), ("길", "um", "긺"),
        ("빠르", "yo", "빨라요"), ("나쁘", "past", "나빴어요"), ("비싸", "formal", "비쌉니다"), ("걸리:v", "nde", "걸리는데"),
        ("최고:n", "yo", "최고예요"), ("엉망:n", "ne", "엉망이네요"), ("형편없", "adn", "형편없는"), ("들:v", "adn", "드는"),
    ],
)  # fmt: skip
def test_endings(written: str, ending: str, expected: str) -> None:
    """Regular and irregular stems conjugate as Korean grammar says."""
    assert Predicate.parse(written).forms[ending] == expected


@pytest.mark.parametrize("aspect", sorted(aspects()))
def test_every_predicate_has_every_ending(aspect: str) -> None:
    """The whole lexicon conjugates, and its negation too where it has one."""
    endings = {"yo", "past", "ne", "formal", "um", "go", "jiman", "nde", "adn"}
    for group in aspects()[aspect].groups:
        for predicate in (*group.praise, *group.blame):
            assert set(predicate.forms) == endings
            if predicate.negatable:
                assert predicate.negated().forms["yo"].endswith("지 않아요")


@given(SYLLABLES, st.sampled_from(" ㄴㄹㅁㅂㅆㅇ"))
def test_final_consonants_round_trip(syllable: str, final: str) -> None:
    """What was put below a syllable is found there, and nothing else changes."""
    changed = with_final(syllable, final)
    assert final_of(changed) == final
    assert with_final(changed, final_of(syllable)) == syllable


@given(st.text(SYLLABLES, min_size=1))
def test_particle_follows_the_last_syllable(word: str) -> None:
    """A closed syllable takes 이, an open one 가."""
    assert particle(word, "이", "가") == word + ("가" if final_of(word) == " " else "이")
