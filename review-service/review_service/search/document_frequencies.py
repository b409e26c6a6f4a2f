"""Document frequencies: in what share of the reviews a word occurs, to know which words of a query are rare. Pure.

Words are compared by their prefixes, because Korean appends particles and endings: «봉골레가» starts with «봉골레».
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

MIN_PREFIX_LENGTH = 2
"""Minimum length of a prefix in characters: too many words start with the same single syllable. A word of one character
is its own prefix."""
MAX_PREFIX_LENGTH = 8
MAX_TEXT_CHARACTERS = 500
"""Only this many characters of each text are used, so that long texts do not delay a search."""
_WORD = re.compile(r"\w+")


class DocumentFrequencies:
    """For each prefix, the number of texts with a word that starts with it."""

    def __init__(self, texts: Iterable[str], rows: int | None = None) -> None:
        """Count the words of `texts`, a sample of `rows` reviews; None means that the texts are all reviews."""
        self._documents = 0
        self._counts: Counter[str] = Counter()
        for text in texts:
            self._documents += 1
            self._counts.update(
                {prefix for word in _words(text[:MAX_TEXT_CHARACTERS]) for prefix in _prefixes(word, 1)}
            )
        self._own_count = 1 if rows is None or rows <= self._documents else 0
        """1 if a text of a search is itself counted. In a small sample of many reviews it hardly ever is."""

    def frequency(self, prefix: str) -> float:
        """Compute the document frequency of a prefix that occurs in one text.

        Args:
            prefix: Start of a word: NFC, lower case, at most `MAX_PREFIX_LENGTH` characters.

        Returns:
            Share of the other texts that have a word with this prefix, from 0 to 1; 0 for an unknown prefix.
        """
        return max(0, self._counts[prefix] - self._own_count) / max(1, self._documents - self._own_count)

    def rarest_frequencies(self, query: str, texts: Mapping[T, str]) -> dict[T, float]:
        """Find for each text the rarest word that it has in common with a query.

        Args:
            query: The query's text.
            texts: Texts by any key. Only their first `MAX_TEXT_CHARACTERS` characters are used.

        Returns:
            Document frequency of the rarest common prefix, by key; without the texts that share no word with the query.
        """
        prefixes = {prefix for word in _words(query) for prefix in _prefixes(word, min(MIN_PREFIX_LENGTH, len(word)))}
        frequencies = {prefix: self.frequency(prefix) for prefix in prefixes}
        heads = {prefix[:MIN_PREFIX_LENGTH] for prefix in prefixes}
        rarest = {}
        for key, text in texts.items():
            candidates = (
                word
                for word in _words(text[:MAX_TEXT_CHARACTERS])
                if word[:MIN_PREFIX_LENGTH] in heads or word[:1] in heads
            )
            common = [
                frequencies[prefix] for word in candidates for prefix in _prefixes(word, 1) if prefix in frequencies
            ]
            if common:
                rarest[key] = min(common)
        return rarest


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def _prefixes(word: str, shortest: int) -> Iterator[str]:
    return (word[:length] for length in range(shortest, min(len(word), MAX_PREFIX_LENGTH) + 1))
