"""Korean words: letters, terms, the vocabulary, and how a query is read."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from review_service.search.word_files import WordFiles
from review_service.words import analyzer as words_analyzer
from review_service.words.analyzer import MorphemeAnalyzer, chunks, version_of
from review_service.words.defaults import USER_WORDS
from review_service.words.letters import distance, from_latin_keys, initials, is_initials, jamo
from review_service.words.query import MAX_LOOKUPS, MAX_TERMS, ParsedQuery, QueryParser
from review_service.words.synonyms import SearchWords, parse_search_words
from review_service.words.user_words import parse_user_words
from review_service.words.vocabulary import Near, Vocabulary
from tests.review.support import analyzer

SYLLABLES = st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), max_size=6)
KEYS = dict(
    zip(
        "ㅂㅈㄷㄱㅅㅛㅕㅑㅐㅔㅁㄴㅇㄹㅎㅗㅓㅏㅣㅋㅌㅊㅍㅠㅜㅡㅃㅉㄸㄲㅆㅒㅖ",
        "qwertyuiopasdfghjklzxcvbnmQWERTOP",
        strict=True,
    )
)
TWO_KEYS = {
    **{"ㅘ": "hk", "ㅙ": "ho", "ㅚ": "hl", "ㅝ": "nj", "ㅞ": "np", "ㅟ": "nl", "ㅢ": "ml"},
    **{"ㄳ": "rt", "ㄵ": "sw", "ㄶ": "sg", "ㄺ": "fr", "ㄻ": "fa", "ㄼ": "fq", "ㄽ": "ft"},
    **{"ㄾ": "fx", "ㄿ": "fv", "ㅀ": "fg", "ㅄ": "qt"},
}


@given(SYLLABLES)
def test_what_is_typed_with_latin_keys_is_read_as_korean(word: str) -> None:
    """Any word of syllables comes back from its keys."""
    assert from_latin_keys("".join(TWO_KEYS.get(letter) or KEYS[letter] for letter in jamo(word))) == word


@pytest.mark.parametrize("word", ["asdfgh", "qwertyuiop", "pizza", "rlacl1", "김치", ""])
def test_what_is_no_korean_on_the_other_keyboard_is_not_read_as_korean(word: str) -> None:
    """Keys that leave a letter over, digits, and what is Korean already."""
    assert from_latin_keys(word) == ""


@given(SYLLABLES, SYLLABLES, st.integers(0, 3))
def test_a_distance_is_symmetric_and_limited(one: str, other: str, limit: int) -> None:
    """0 for equal words alone; what is above the limit is one more than the limit."""
    first, second = jamo(one), jamo(other)
    assert distance(first, second, limit) == distance(second, first, limit) <= limit + 1
    assert (distance(first, second, limit) == 0) == (one == other)


def test_one_error_is_one_letter() -> None:
    """Another letter, one too many, one too few, and two that changed places."""
    for wrong in ("짬봉", "짬뽕ㅇ", "짬뽀"):
        assert distance(jamo(wrong), jamo("짬뽕"), 5) == 1
    assert distance("abcd", "abdc", 2) == 1


def test_initials_are_those_of_each_syllable() -> None:
    """Laughter is none, and neither is a single letter."""
    assert initials("김치찌개") == "ㄱㅊㅉㄱ"
    assert initials("김치a") == ""
    assert [word for word in ("ㄱㅊㅉㄱ", "ㅋㅋㅋ", "ㄱ", "가ㄱ", "ㅠㅠ") if is_initials(word)] == ["ㄱㅊㅉㄱ"]


@given(st.text(st.sampled_from("가나 \n다"), max_size=60), st.integers(1, 10))
def test_chunks_are_the_text(text: str, size: int) -> None:
    """None is too long, none is empty, and together they are all of it, at their offsets."""
    made = list(chunks(text, size))
    assert "".join(chunk for _, chunk in made) == text
    assert all(0 < len(chunk) <= size and text.startswith(chunk, start) for start, chunk in made)


def words_of(text: str, taken_apart_by: MorphemeAnalyzer | None = None) -> list[str]:
    return [term.text for term in (taken_apart_by or analyzer()).terms(text)]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("부대찌개가 맛있었어요", ["부대찌개", "부대", "찌개", "맛있다"]),
        ("칼국수", ["칼국수", "칼", "국수"]),
        ("순두부찌개", ["순두부", "찌개", "순두부찌개"]),
        ("분위기가 좋았습니다", ["분위기", "좋다"]),
        ("조용한 곳", ["조용", "곳"]),
        ("PIZZA 먹었음!!! ㅋㅋㅋ", ["pizza", "먹다"]),
        ("", []),
    ],
)
def test_a_text_is_taken_apart_into_terms(text: str, terms: list[str]) -> None:
    """Compounds are taken apart and kept; particles, endings and laughter are left out."""
    assert words_of(text) == terms


def test_composed_and_decomposed_texts_have_the_same_terms() -> None:
    """What comes from a Mac is found by what was typed elsewhere."""
    text = "부대찌개랑 칼국수가 맛있었어요"
    assert words_of(unicodedata.normalize("NFD", text)) == words_of(text)


@settings(max_examples=50)
@given(st.text(max_size=300))
def test_any_text_has_terms_that_an_index_can_hold(text: str) -> None:
    """Without white space, in order of their beginnings within the text, and stored as they are."""
    terms = analyzer().terms(text)
    composed = unicodedata.normalize("NFC", text)
    assert all(term.text and not any(map(str.isspace, term.text)) for term in terms)
    assert all(0 <= term.start <= term.end <= len(composed) for term in terms)
    assert analyzer().indexed(text).split() == [term.text for term in terms]


def test_the_operator_has_words_of_their_own() -> None:
    """A word is kept whole, taken apart as the file says, or found by its ending."""
    own = MorphemeAnalyzer(parse_user_words("스시담 # a place\n\n마제소바 마제 소바\n-수육"))
    assert words_of("스시담", own) == ["스시담"]
    assert words_of("마제소바", own) == ["마제소바", "마제", "소바"]
    assert "수육" in words_of("돔베수육", own)


def test_an_analyzer_that_may_find_other_terms_has_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """With other words, another Kiwi, another model of it or other rules; comments change nothing."""
    words = parse_user_words(USER_WORDS)
    versions = [version_of(words), *(version_of(parse_user_words(line)) for line in ("스시담", "스시담 스시 담"))]
    assert analyzer().version == version_of(parse_user_words(f"# comment\n\n{USER_WORDS}")) == versions[0]
    for package in ("neither", "kiwipiepy", "kiwipiepy-model"):
        with monkeypatch.context() as changed:
            changed.setattr(words_analyzer, "version", {"kiwipiepy": "1", "kiwipiepy-model": "1", package: "2"}.get)
            versions.append(version_of(words))
    monkeypatch.setattr(words_analyzer, "TERMS_VERSION", 0)
    versions.append(version_of(words))
    assert len(set(versions)) == len(versions) == 7


REVIEWS = [
    *["짬뽕 국물이 시원해요"] * 12,
    *["김치찌개가 얼큰해요"] * 5,
    *["돈가스가 바삭해요"] * 5,
    "직원이 친절해요",
    "마라탕이 매워요",
]
NO_WORDS = SearchWords()


def vocabulary(texts: Sequence[str] = REVIEWS) -> Vocabulary:
    return Vocabulary(Counter(term for text in texts for term in set(words_of(text))), len(texts))


def parse(query: str, words: SearchWords = NO_WORDS, texts: Sequence[str] = REVIEWS) -> ParsedQuery:
    return QueryParser(analyzer().terms, vocabulary(texts), words).parse(query)


@pytest.mark.parametrize(
    ("query", "read", "reason"),
    [
        ("짬봉 국물", "짬뽕 국물", "spelling"),
        ("ㄱㅊㅉㄱ 맛집", "김치찌개 맛집", "initials"),
        ("rlaclWlro", "김치찌개", "keyboard"),
        ("akfkxkd", "마라탕", "keyboard"),
    ],
)
def test_a_word_that_no_review_has_is_looked_for_by_letters(query: str, read: str, reason: str) -> None:
    """As a misspelt word, by its initial consonants, or as typed on the wrong keyboard."""
    parsed = parse(query)
    assert (parsed.text, parsed.corrected, parsed.terms[0].reason) == (read, True, reason)


@pytest.mark.parametrize("query", ["짬뽕 국물", "해장", "asdfgh", "ㅋㅋㅋ", "pizza", "ㅎㅎㅎㄷ", "친절한 직원", "?!"])
def test_a_word_that_is_right_or_nothing_is_left_as_it_is(query: str) -> None:
    """What reviews have, what a dictionary has, and what resembles no word."""
    parsed = parse(query)
    assert (parsed.text, parsed.corrected) == (query, False)


def search_terms(parsed: ParsedQuery) -> str:
    """All different terms to look for."""
    return " ".join(dict.fromkeys(text for term in parsed.terms for text in term.alternatives))


def test_synonyms_and_stop_words_apply_to_queries() -> None:
    """Both ways, or one way with an arrow; a query of stop words alone keeps them."""
    words = parse_search_words("돈까스, 돈가스 # spelling\n소세지 => 소시지", "곳 좋다", "")
    assert search_terms(parse("돈까스 좋은 곳", words)) == "돈까스 돈가스"
    assert search_terms(parse("돈가스", words)).split()[:2] == ["돈가스", "돈까스"]
    assert "소시지" in search_terms(parse("소세지", words)).split()
    assert "소세지" not in search_terms(parse("소시지", words)).split()
    assert search_terms(parse("좋은 곳", words)) == "좋다 곳"
    assert words.version != NO_WORDS.version


@pytest.mark.parametrize("query", ["테이크아웃", "포장", "맛있어요", "맛나요"])
def test_a_review_with_a_synonym_covers_a_word_that_no_review_has(query: str) -> None:
    """In a small collection, too, where a word that is nowhere would weigh most; parts of it that are nowhere do not
    count."""
    words, texts = (
        parse_search_words("테이크아웃, 포장\n맛있다, 맛나다", "", ""),
        ["포장이 맛있어요", "친절해요", "조용해요"],
    )
    parsed, known = parse(query, words, texts), vocabulary(texts)
    assert parsed.ideal_score(known) == known.weight("포장") == known.weight("맛있다")
    assert parsed.known_share(known) == 1


def test_the_most_frequent_synonym_covers_its_word() -> None:
    """A review that has the usual word is not worse because another has a rare one."""
    words, texts = parse_search_words("맛있다, 맛나다", "", ""), [*["맛있어요"] * 20, "맛나요", "친절해요"]
    assert parse("맛있어요", words, texts).ideal_score(vocabulary(texts)) == vocabulary(texts).weight("맛있다")


@pytest.mark.parametrize("query", ["맛있어요", "ㅁㄹㅌ", "짬봉"])
def test_what_stands_for_a_word_weighs_as_much_as_the_most_frequent(query: str) -> None:
    """Synonyms, terms with the same initial consonants, and terms that look like the word."""
    words = parse_search_words("맛있다, 맛나다", "", "")
    texts = [*["맛있어요 마라탕 짬뽕"] * 20, "맛나요 모래톱 짬봉", *["친절해요"] * 20]
    parsed, known = parse(query, words, texts), vocabulary(texts)
    weights = parsed.weights(known)
    assert len(weights) > 1
    assert set(weights.values()) == {parsed.ideal_score(known)}
    assert list(weights) == search_terms(parsed).split()


def test_a_word_that_is_nowhere_counts() -> None:
    """As a word that reviews do not have; all words are taken as known while nothing is counted yet."""
    parsed, known = parse("짬뽕 없는말"), vocabulary()
    assert parsed.ideal_score(known) > known.weight("짬뽕")
    assert parsed.known_share(known) < 1
    assert parsed.known_share(vocabulary([])) == 1


def test_phrases_are_taken_out_of_their_quotation_marks() -> None:
    """Straight ones or round ones; their words are looked for as well; a single mark is none."""
    parsed = parse('“짬뽕 국물” "시원해요" 친절"')
    assert parsed.phrases == ("짬뽕 국물", "시원해요")
    assert {"짬뽕", "국물", "친절"} <= set(search_terms(parsed).split())


def test_a_long_query_has_a_limited_number_of_terms() -> None:
    """The first ones; a query of as many words as there are terms is complete."""
    long = " ".join(map(str, range(400)))
    assert [term.text for term in parse(long).terms] == [str(number) for number in range(MAX_TERMS)]
    assert len(parse(" ".join(map(str, range(MAX_TERMS)))).terms) == MAX_TERMS


def test_the_terms_are_searched_for_likenesses_a_limited_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for a word, however often it comes, and not for each of many words; a parser's next query begins anew."""
    looked_up = list[str]()

    def near(_: Vocabulary, word: str, limit: int) -> list[Near]:
        looked_up.append(word)
        return []

    monkeypatch.setattr(Vocabulary, "near", near)
    syllables = "뷁쉛뙑훟핳쀍퀡퉵췕뤏쫷퉳훩쀓"
    words = [f"{first}{second}{first}" for first, second in permutations(syllables, 2)]
    parser = QueryParser(analyzer().terms, vocabulary(), NO_WORDS)
    parser.parse(" ".join(words[:1] * 100))
    assert 0 < len(looked_up) == len(set(looked_up)) <= 3
    looked_up.clear()
    parser.parse(" ".join(words))
    assert len(looked_up) == MAX_LOOKUPS
    looked_up.clear()
    parser.parse(words[0])
    assert looked_up


def test_a_phrase_counts_once_and_only_if_it_can_be_seen() -> None:
    """No text has what cannot be seen word for word, as pasted queries have it."""
    assert parse('"국물" “국물” "\u200b" " \u3164 " 짬뽕 "국물"').phrases == ("국물",)


@pytest.mark.parametrize("text", ["#맛집/카페", "#0/0"])
def test_a_hashtag_with_a_slash_is_a_term(text: str) -> None:
    """Kiwi takes what follows a slash for a tag where it is told not to use a word."""
    assert [term.text for term in analyzer().terms(f"{text} 좋아요")] == [text, "좋다"]


@settings(max_examples=50)
@given(st.text(max_size=200))
@example("#0/0")
def test_any_query_is_read(query: str) -> None:
    """Its score has a scale if it has terms, and terms are different."""
    parsed = parse(query)
    texts = [term.text for term in parsed.terms]
    assert len(set(texts)) == len(texts)
    assert (parsed.ideal_score(vocabulary()) > 0) == bool(texts)


def test_the_rarer_a_term_the_more_it_weighs() -> None:
    """One that no review has weighs most."""
    known = vocabulary()
    assert known.weight("짬뽕") < known.weight("김치찌개") < known.weight("친절") < known.weight("없는말")


def test_a_term_stands_for_its_part_of_the_text() -> None:
    """Its offsets are those of the composed text."""
    text = "국물이 정말 좋았어요"
    assert [text[term.start : term.end] for term in analyzer().terms(text)] == ["국물", "정말", "좋"]


def test_a_folder_of_words_that_is_not_there_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    """In a container or a pod it may be a folder of another machine; without any, the words are built in."""
    assert WordFiles(tmp_path).user_words() == WordFiles(None).user_words()
    with pytest.raises(NotADirectoryError):
        WordFiles(tmp_path / "elsewhere").user_words()
