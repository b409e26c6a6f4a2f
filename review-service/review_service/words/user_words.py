"""The operator's own words, and how compounds are taken apart. Pure.

A line of the file is a word, a word and its parts, or an ending that is looked for by itself:

    마라로제
    칼국수 칼 국수
    -국수
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from review_service.words.terms import normalize


@dataclass(frozen=True)
class UserWords:
    """The words of a file; without one there are none."""

    lines: tuple[str, ...] = ()
    """The lines without comments, as they decide what a text's terms are."""
    words: tuple[str, ...] = ()
    """Words that are kept whole."""
    compounds: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Parts by word."""
    endings: tuple[str, ...] = ()
    """Each noun that ends on one of them is also found by it; longest first."""

    def parts(self, word: str) -> Sequence[str]:
        """Take a noun apart as the file says.

        Args:
            word: The noun, as `terms.normalize` makes it.

        Returns:
            Its parts; empty if the file says nothing of it.
        """
        if word in self.compounds:
            return self.compounds[word]
        ending = next((one for one in self.endings if word.endswith(one) and word != one), None)
        return () if ending is None else (word.removesuffix(ending), ending)


def parse_user_words(text: str) -> UserWords:
    """Parse the file.

    Args:
        text: Lines as above. Empty lines and what follows a `#` are ignored.

    Returns:
        The words.
    """
    lines = lines_of(text)
    words = [line.split() for line in lines if not line.startswith("-")]
    endings = sorted((normalize(line[1:]) for line in lines if line.startswith("-")), key=len, reverse=True)
    return UserWords(
        lines=lines,
        words=tuple(first for first, *_ in words),
        compounds={normalize(first): tuple(map(normalize, parts)) for first, *parts in words if parts},
        endings=tuple(ending for ending in endings if ending),
    )


def lines_of(text: str) -> tuple[str, ...]:
    """List the lines of a file of words, without comments (from `#`) and empty lines."""
    stripped = (line.partition("#")[0].strip() for line in text.removeprefix("\ufeff").splitlines())
    return tuple(line for line in stripped if line)
