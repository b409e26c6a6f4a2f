"""Whether two texts say the opposite of each other: by denials and by antonyms. Pure.

A term is affirmed or denied («들리다 않다»). A word of a pair of antonyms also takes a side of that pair: «안 넓다» and
«작다» take the same. Two texts oppose each other if both speak of something and never take the same side in it.
"""

from collections.abc import Iterable, Mapping, Sequence

from review_service.words.terms import normalize
from review_service.words.user_words import lines_of

DENIALS_BEFORE = frozenset({"안", "못"})
"""Terms that deny the next one."""
DENIALS_AFTER = frozenset({"않다", "못하다", "없다", "없이", "아니다", "말다"})
"""Terms that deny the one before."""
BOUND_NOUNS = frozenset({"편", "점", "것", "거", "수", "적", "줄", "곳", "데", "정도", "느낌", "일", "건"})
"""Nouns between a term and its denial that say nothing themselves: «넓은 편은 아니다»."""
DENYING_PREFIXES = ("불", "비", "무", "미")
"""Of nouns: «불친절» comes with its part «친절», which the text does not say."""
EXCEPT = "말다"
"""After a bound noun it means *except*: «복잡한 것 말고는 만족해요»."""

Side = int
"""1 or -1."""
Antonyms = Mapping[str, Sequence[tuple[str, Side]]]
"""Term → the pairs that it belongs to, each with its side."""
Stances = Mapping[str, Sequence[Side]]
"""Term or pair of antonyms → the sides that a text takes, in order."""


def parse_antonyms(text: str) -> Antonyms:
    """Parse a file of antonyms.

    Args:
        text: Lines such as `넓다, 크다 <> 좁다, 작다`. Empty lines and what follows a `#` are ignored.

    Returns:
        The pairs of each term.

    Raises:
        ValueError: A line has no two sides.
    """
    found: dict[str, list[tuple[str, Side]]] = {}
    for line in lines_of(text):
        left, arrow, right = line.partition("<>")
        sides = [[term for part in side.split(",") if (term := normalize(part))] for side in (left, right)]
        if not arrow or not all(sides):
            raise ValueError("a line of antonyms is no 'word, word <> word, word'")
        for side, terms in zip((1, -1), sides, strict=True):
            for term in terms:
                found.setdefault(term, []).append((f"{sides[0][0]} <> {sides[1][0]}", side))
    return found


def stances(terms: Sequence[str], antonyms: Antonyms) -> Stances:
    """Find which sides a text takes.

    Args:
        terms: Its terms, in order.
        antonyms: Pairs of opposites.

    Returns:
        The sides of each term that is no denial and no bound noun, and of each pair.
    """
    taken: dict[str, set[Side]] = {}
    silent = BOUND_NOUNS | DENIALS_BEFORE | DENIALS_AFTER
    for place, (term, side) in enumerate(zip(terms, _sides(terms), strict=True)):
        following = terms[place + 1 : place + 2]
        if term not in silent and not any(prefix + term in following for prefix in DENYING_PREFIXES):
            for subject, own in ((term, 1), *antonyms.get(term, ())):
                taken.setdefault(subject, set()).add(side * own)
    return {subject: sorted(sides) for subject, sides in taken.items()}


def opposites(one: Stances, other: Stances) -> list[str]:
    """Find what two texts speak of and never take the same side in.

    Args:
        one: The stances of a text.
        other: Those of another.

    Returns:
        Terms and pairs of antonyms, sorted; empty if the texts do not oppose each other.
    """
    return sorted(subject for subject in one.keys() & other.keys() if set(one[subject]).isdisjoint(other[subject]))


def _sides(terms: Sequence[str]) -> Iterable[Side]:
    sides = [1] * len(terms)
    for place, term in enumerate(terms):
        if term in DENIALS_BEFORE and place + 1 < len(terms):
            sides[place + 1] *= -1
        elif term in DENIALS_AFTER:
            denied = place - 1
            while denied >= 0 and terms[denied] in BOUND_NOUNS | DENIALS_AFTER:
                denied -= 1
            if denied >= 0 and not (term == EXCEPT and denied < place - 1):
                sides[denied] *= -1
    return sides
