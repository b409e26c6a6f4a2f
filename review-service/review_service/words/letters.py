"""Compares words letter by letter: jamo, initial consonants, and what was typed on the wrong keyboard. Pure."""

import re

_INITIALS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_FINALS = " ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"
_FIRST_SYLLABLE, _LAST_SYLLABLE = 0xAC00, 0xD7A3
_DOUBLE = {
    **{"ㅗㅏ": "ㅘ", "ㅗㅐ": "ㅙ", "ㅗㅣ": "ㅚ", "ㅜㅓ": "ㅝ", "ㅜㅔ": "ㅞ", "ㅜㅣ": "ㅟ", "ㅡㅣ": "ㅢ"},
    **{"ㄱㅅ": "ㄳ", "ㄴㅈ": "ㄵ", "ㄴㅎ": "ㄶ", "ㄹㄱ": "ㄺ", "ㄹㅁ": "ㄻ", "ㄹㅂ": "ㄼ", "ㄹㅅ": "ㄽ"},
    **{"ㄹㅌ": "ㄾ", "ㄹㅍ": "ㄿ", "ㄹㅎ": "ㅀ", "ㅂㅅ": "ㅄ"},
}
"""Letters that are typed with two keys."""
_KEYS = dict(
    zip(
        "qwertyuiopasdfghjklzxcvbnm" + "QWERTOP",
        "ㅂㅈㄷㄱㅅㅛㅕㅑㅐㅔㅁㄴㅇㄹㅎㅗㅓㅏㅣㅋㅌㅊㅍㅠㅜㅡ" + "ㅃㅉㄸㄲㅆㅒㅖ",
        strict=True,
    )
)
"""The Korean keyboard of two sets (두벌식, KS X 5002) by the Latin letters on the same keys."""
_ONLY_INITIALS = re.compile(f"[{_INITIALS}]+")
_ONE_SYLLABLE = re.compile(
    f"([{_INITIALS}])"
    "(ㅗ[ㅏㅐㅣ]|ㅜ[ㅓㅔㅣ]|ㅡㅣ|[ㅏ-ㅣ])"
    # A consonant belongs to the next syllable if a vowel follows.
    f"((?:ㄱㅅ|ㄴ[ㅈㅎ]|ㄹ[ㄱㅁㅂㅅㅌㅍㅎ]|ㅂㅅ|[{_FINALS[1:]}])(?![ㅏ-ㅣ]))?"
)


def jamo(word: str) -> str:
    """Take the syllables of a word apart into letters: two or three for each syllable.

    Args:
        word: NFC.

    Returns:
        Letters as they are on a keyboard («ㄱ»), not in the code points of NFD; other characters stay.
    """
    letters = []
    for char in word:
        code = ord(char) - _FIRST_SYLLABLE
        if 0 <= code <= _LAST_SYLLABLE - _FIRST_SYLLABLE:
            letters.append(_INITIALS[code // 588] + _VOWELS[code % 588 // 28] + _FINALS[code % 28].strip())
        else:
            letters.append(char)
    return "".join(letters)


def initials(word: str) -> str:
    """Get the initial consonants of a Korean word: «김치찌개» → «ㄱㅊㅉㄱ».

    Args:
        word: NFC.

    Returns:
        One consonant for each syllable; empty if the word has another character than syllables.
    """
    codes = [ord(char) - _FIRST_SYLLABLE for char in word]
    if not all(0 <= code <= _LAST_SYLLABLE - _FIRST_SYLLABLE for code in codes):
        return ""
    return "".join(_INITIALS[code // 588] for code in codes)


def is_initials(word: str) -> bool:
    """Whether a word is at least two initial consonants that are not all the same, as in «ㅋㅋㅋ»."""
    return len(word) > 1 and bool(_ONLY_INITIALS.fullmatch(word)) and len(set(word)) > 1


def from_latin_keys(word: str) -> str:
    """Convert what was typed with the keyboard set to Latin letters: «rlacl» → «김치».

    Args:
        word: Any word.

    Returns:
        Korean syllables; empty if the keys do not make up whole syllables.
    """
    if not word or not all(char in _KEYS or char.lower() in _KEYS for char in word):
        return ""
    keys = "".join(_KEYS.get(char) or _KEYS[char.lower()] for char in word)
    syllables: list[str] = []
    position = 0
    while position < len(keys):
        # ㄸ, ㅃ and ㅉ are no final consonants: `_FINALS` does not have them.
        match = _ONE_SYLLABLE.match(keys, position)
        if match is None:
            return ""
        initial, vowel, final = match[1], match[2], match[3] or ""
        code = _INITIALS.index(initial) * 588 + _VOWELS.index(_DOUBLE.get(vowel, vowel)) * 28
        syllables.append(chr(_FIRST_SYLLABLE + code + (_FINALS.index(_DOUBLE.get(final, final)) if final else 0)))
        position = match.end()
    return "".join(syllables)


def distance(first: str, second: str, limit: int) -> int:
    """Compute the edit distance of two words: insertions, deletions, substitutions, swaps of two neighbours.

    This is the optimal string alignment distance (restricted Damerau-Levenshtein).

    Args:
        first: A word, usually as `jamo`.
        second: Another one.
        limit: Largest distance of interest.

    Returns:
        The distance, or `limit` + 1 if it is larger than `limit`.
    """
    if abs(len(first) - len(second)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, char in enumerate(first, 1):
        earlier, before, row = before, row, [i]
        for j, other in enumerate(second, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (char != other))
            if i > 1 and j > 1 and char == second[j - 2] and first[i - 2] == other:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
        if min(row) > limit:
            return limit + 1
    return min(row[-1], limit + 1)
