"""Korean word forms by Unicode arithmetic: particles, and the endings of adjectives, verbs and nouns."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Kind = Literal["adjective", "verb", "noun", "p-irregular"]

_FIRST = 0xAC00
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_FINALS = " ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"
_CONTRACTED = {"ㅗ": "ㅘ", "ㅜ": "ㅝ", "ㅣ": "ㅕ", "ㅚ": "ㅙ"}
_SAME = "ㅏㅓㅐㅔㅕ"


def _split(syllable: str) -> tuple[int, str, str]:
    """Initial index, vowel and final consonant (a space when open) of one Hangul syllable."""
    code = ord(syllable) - _FIRST
    return code // 588, _VOWELS[code // 28 % 21], _FINALS[code % 28]


def _join(initial: int, vowel: str, final: str = " ") -> str:
    return chr(_FIRST + initial * 588 + _VOWELS.index(vowel) * 28 + _FINALS.index(final))


def final_of(word: str) -> str:
    """Final consonant of the last syllable, a space when it is open or the word does not end in Hangul."""
    return _split(word[-1])[2] if "가" <= word[-1] <= "힣" else " "


def with_final(word: str, final: str) -> str:
    """Replace the last syllable's final consonant: `with_final("친절하", "ㄴ")` is «친절한»."""
    initial, vowel, _ = _split(word[-1])
    return word[:-1] + _join(initial, vowel, final)


def particle(word: str, closed: str, open_: str) -> str:
    """`particle("맛", "이", "가")` is «맛이», `particle("서비스", "이", "가")` is «서비스가»."""
    return word + (open_ if final_of(word) == " " else closed)


def _bright(syllable: str) -> bool:
    return _split(syllable)[1] in "ㅏㅗ"


def _infinitive(stem: str, kind: Kind) -> str:
    """The 아/어 form, to which «요» or the past tense is added."""
    initial, vowel, final = _split(stem[-1])
    if kind == "p-irregular":
        return with_final(stem, " ") + "워"
    if stem.endswith("하"):
        return stem[:-1] + "해"
    if final != " ":
        return stem + ("아" if vowel in "ㅏㅑㅗ" else "어")
    if stem.endswith("르"):
        return with_final(stem[:-1], "ㄹ") + ("라" if _bright(stem[-2]) else "러")
    if vowel == "ㅡ":
        bright = len(stem) > 1 and stem[-2] != " " and _bright(stem[-2])
        return stem[:-1] + _join(initial, "ㅏ" if bright else "ㅓ")
    if vowel in _SAME:
        return stem
    return stem[:-1] + _join(initial, _CONTRACTED[vowel]) if vowel in _CONTRACTED else stem + "어"


@dataclass(frozen=True)
class Predicate:
    """What is said of a subject: a stem such as «친절하» and how it conjugates."""

    stem: str
    kind: Kind = "adjective"

    @classmethod
    def parse(cls, text: str) -> "Predicate":
        """Read `stem`, `stem:v`, `stem:n` or `stem:p`."""
        stem, _, mark = text.partition(":")
        kinds: dict[str, Kind] = {"": "adjective", "v": "verb", "n": "noun", "p": "p-irregular"}
        return cls(stem, kinds[mark])

    @property
    def negatable(self) -> bool:
        """Whether «-지 않다» sounds natural."""
        return self.kind in ("adjective", "p-irregular") and not self.stem.endswith("없")

    def negated(self) -> "Predicate":
        """«친절하» becomes «친절하지 않»."""
        return Predicate(self.stem + "지 않")

    @cached_property
    def forms(self) -> dict[str, str]:
        """Every ending by name.

        yo (plain polite), past, ne (exclaiming), formal, um (clipped), go (and), jiman (but),
        nde (but, softer), adn (before a noun).
        """
        return self._noun_forms() if self.kind == "noun" else self._verbal_forms()

    def _noun_forms(self) -> dict[str, str]:
        stem = self.stem
        closed = final_of(stem) != " "
        return {
            "yo": stem + ("이에요" if closed else "예요"),
            "past": stem + ("이었어요" if closed else "였어요"),
            "ne": stem + ("이네요" if closed else "네요"),
            "formal": stem + "입니다",
            "um": stem + "임",
            "go": stem + "이고",
            "jiman": stem + "이지만",
            "nde": stem + "인데",
            "adn": stem + "인",
        }

    def _verbal_forms(self) -> dict[str, str]:
        stem, final = self.stem, final_of(self.stem)
        infinitive = _infinitive(stem, self.kind)
        past = with_final(infinitive, "ㅆ")
        short = with_final(stem, " ") if final == "ㄹ" else stem
        closed = final not in (" ", "ㄹ")
        return {
            "yo": infinitive + "요",
            "past": past + "어요",
            "ne": short + "네요",
            "formal": stem + "습니다" if closed else with_final(stem, "ㅂ") + "니다",
            "um": self._clipped(),
            "go": stem + "고",
            "jiman": stem + "지만",
            "nde": self._before_noun() + "데",
            "adn": self._before_noun(),
        }

    def _clipped(self) -> str:
        final = final_of(self.stem)
        if self.kind == "p-irregular":
            return with_final(self.stem, " ") + "움"
        if final == " ":
            return with_final(self.stem, "ㅁ")
        return with_final(self.stem, "ㄻ") if final == "ㄹ" else self.stem + "음"

    def _before_noun(self) -> str:
        final = final_of(self.stem)
        if self.kind == "p-irregular":
            return with_final(self.stem, " ") + "운"
        if self.kind == "verb" or self.stem[-1] in "있없":
            return (with_final(self.stem, " ") if final == "ㄹ" else self.stem) + "는"
        return with_final(self.stem, "ㄴ") if final in (" ", "ㄹ") else self.stem + "은"
