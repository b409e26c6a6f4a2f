"""How many reviews have a word, by which a query's rare words are told from its common ones. Pure.

A word is known by its beginning, since Korean puts particles and endings behind: «봉골레가» has «봉골레».
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

MIN_PREFIX_LENGTH = 2
"""Characters of a beginning that counts: one syllable alone begins too many words. A word of one stands for itself."""
MAX_PREFIX_LENGTH = 8
MAX_TEXT_CHARACTERS = 500
"""So many characters of each text are counted, so that long ones do not hold up a search."""
_WORD = re.compile(r"\w+")


class DocumentFrequencies:
    """In how many of some texts a word begins in this or that way."""

    def __init__(self, texts: Iterable[str], rows: int | None = None) -> None:
        """Count the words of texts, which are a sample of so many `rows`; of themselves alone by default."""
        self._documents = 0
        self._counts: Counter[str] = Counter()
        for text in texts:
            self._documents += 1
            self._counts.update({start for word in _words(text[:MAX_TEXT_CHARACTERS]) for start in _prefixes(word, 1)})
        self._own_count = 1 if rows is None or rows <= self._documents else 0
        """A text that is looked at is hardly ever one of a small sample."""

    def frequency(self, beginning: str) -> float:
        """Of one text that has such a word: how many of the others do, too; 0 to 1. 0 for one that none is known to
        have."""
        return max(0, self._counts[beginning] - self._own_count) / max(1, self._documents - self._own_count)

    def rarest_frequencies(self, query: str, texts: Mapping[T, str]) -> dict[T, float]:
        """Of those that have a word in common with a query: the `share` of the rarest one. What is not counted in texts
        is not looked at either."""
        asked = {start for word in _words(query) for start in _prefixes(word, min(MIN_PREFIX_LENGTH, len(word)))}
        shares = {start: self.frequency(start) for start in asked}
        heads = {start[:MIN_PREFIX_LENGTH] for start in asked}
        found = {}
        for thing, text in texts.items():
            near = (
                word
                for word in _words(text[:MAX_TEXT_CHARACTERS])
                if word[:MIN_PREFIX_LENGTH] in heads or word[:1] in heads
            )
            common = [shares[start] for word in near for start in _prefixes(word, 1) if start in shares]
            if common:
                found[thing] = min(common)
        return found


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def _prefixes(word: str, shortest: int) -> Iterator[str]:
    return (word[:length] for length in range(shortest, min(len(word), MAX_PREFIX_LENGTH) + 1))
