"""Whether two texts say the opposite of each other: by denials and by antonyms. Pure.

A term is affirmed or denied («들리다 않다»). A word of a pair of antonyms also takes a side of that pair: «안 넓다» and
«작다» take the same. Two texts oppose each other if both speak of something and never take the same side in it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

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
_SILENT = DENIALS_BEFORE | DENIALS_AFTER | BOUND_NOUNS

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


@dataclass(frozen=True)
class Opposition:
    """Finds what texts say against a query. Of each text it reads only what the query speaks of."""

    asked: Stances = field(default_factory=dict)
    """The sides that the query takes."""
    sides_of: Mapping[str, Sequence[tuple[str, Side]]] = field(default_factory=dict)
    """By term of a text: what of `asked` it speaks of, and the side of it that the term takes by itself."""

    @classmethod
    def to(cls, terms: Sequence[str], antonyms: Antonyms, silent: Collection[str] = ()) -> "Opposition":
        """Prepare for a query.

        Args:
            terms: Its terms, in order.
            antonyms: Pairs of opposites.
            silent: Terms that say nothing, such as stop words, unless there are no others.

        Returns:
            What finds the texts that oppose it.
        """
        speaking = [term for term in terms if term not in _SILENT]
        speaking = [term for term in speaking if term not in silent] or speaking
        asked = _taken(terms, {term: ((term, 1), *antonyms.get(term, ())) for term in speaking})
        sides_of: dict[str, list[tuple[str, Side]]] = {term: [(term, 1)] for term in asked}
        for term, pairs in antonyms.items():
            if own := [pair for pair in pairs if pair[0] in asked]:
                sides_of.setdefault(term, []).extend(own)
        return cls(asked, sides_of)

    def subjects(self, terms: Sequence[str]) -> list[str]:
        """Find what a text and the query speak of and never take the same side in.

        Args:
            terms: Of the text, in order.

        Returns:
            Terms and pairs of antonyms, sorted; empty if the text does not oppose the query.
        """
        taken = _taken(terms, self.sides_of)
        return sorted(subject for subject, sides in taken.items() if set(sides).isdisjoint(self.asked[subject]))


def _taken(terms: Sequence[str], sides_of: Mapping[str, Sequence[tuple[str, Side]]]) -> Stances:
    taken: dict[str, set[Side]] = {}
    for place, term in enumerate(terms):
        if term in sides_of and not _is_part_of_denial(terms, place):
            side = _side(terms, place)
            for subject, own in sides_of[term]:
                taken.setdefault(subject, set()).add(side * own)
    return {subject: sorted(sides) for subject, sides in taken.items()}


def _is_part_of_denial(terms: Sequence[str], place: int) -> bool:
    following = terms[place + 1] if place + 1 < len(terms) else ""
    return following.endswith(terms[place]) and following.removesuffix(terms[place]) in DENYING_PREFIXES


def _side(terms: Sequence[str], place: int) -> Side:
    side = -1 if place and terms[place - 1] in DENIALS_BEFORE else 1
    after = place + 1
    while after < len(terms) and (terms[after] in BOUND_NOUNS or terms[after] in DENIALS_AFTER):
        if terms[after] in DENIALS_AFTER and not (terms[after] == EXCEPT and after > place + 1):
            side = -side
        after += 1
    return side
