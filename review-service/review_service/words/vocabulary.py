"""The terms of the stored reviews: in how many reviews each occurs, and which of them look like another word. Pure."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from review_service.words.letters import distance, initials, jamo

MIN_LETTERS = 5
"""Words of fewer letters have no near words: too many different words differ in one of their letters."""
TWO_ERRORS_LETTERS = 10
"""From this many letters on, a near word may differ in two letters instead of one."""
_HOMOPHONES = str.maketrans("ㅔㅖㅚㅞ", "ㅐㅒㅙㅙ")
"""Vowels that sound alike are no error."""
MIN_FREQUENCY_RATIO = 2
"""A near word occurs in at least this many times as many reviews as the word itself."""


@dataclass(frozen=True)
class Near:
    """A term that looks like a word."""

    term: str
    errors: int
    """Number of letters that differ."""
    reviews: int
    """Number of reviews that have the term."""


class Vocabulary:
    """The terms of some reviews with their document frequencies."""

    def __init__(
        self, counts: Mapping[str, int], reviews: int, mean_length: float = 0.0, before: "Vocabulary | None" = None
    ) -> None:
        """Take what was counted.

        Args:
            counts: The number of reviews for each term.
            reviews: The number of all reviews.
            mean_length: The mean number of terms of a review; 0 if it is not known.
            before: An earlier vocabulary, so that only what is new is taken apart.
        """
        self._counts = counts
        self.reviews = reviews
        self.mean_length = mean_length
        self._terms = [term for term in counts if not term.isascii()]
        self._lengths, self._masks = self._prepared(before)
        self._by_initials: dict[str, list[str]] = defaultdict(list)
        for term in self._terms:
            if len(term) > 1 and (first := initials(term)):
                self._by_initials[first].append(term)

    def _prepared(self, before: "Vocabulary | None") -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint64]]:
        """The number of letters and the mask of each term."""
        places = {term: place for place, term in enumerate(before._terms)} if before else {}
        lengths, masks = np.zeros(len(self._terms), np.int16), np.zeros(len(self._terms), np.uint64)
        found = np.array([places.get(term, -1) for term in self._terms], np.int64)
        if before:
            known = found >= 0
            lengths[known], masks[known] = before._lengths[found[known]], before._masks[found[known]]
        for place in np.flatnonzero(found < 0).tolist():
            letters = _letters(self._terms[place])
            lengths[place], masks[place] = len(letters), _mask(letters)
        return lengths, masks

    def count(self, term: str) -> int:
        """Get the number of reviews that have a term; 0 for an unknown one."""
        return self._counts.get(term, 0)

    def weight(self, term: str) -> float:
        """Compute the BM25 score that a term gives a review of average length that has it once.

        Args:
            term: A term, known or not.

        Returns:
            Its inverse document frequency, ln(1 + (N − n + 0.5) / (n + 0.5)), as in Lucene and LanceDB.
        """
        return self._weight_of(self.count(term))

    @property
    def unique_weight(self) -> float:
        """Weight of a term that a single review has."""
        return self._weight_of(1)

    def _weight_of(self, count: int) -> float:
        return math.log1p(max(0.0, self.reviews - count + 0.5) / (count + 0.5))

    def with_initials(self, consonants: str, limit: int) -> list[str]:
        """Find the most frequent terms with these initial consonants.

        Args:
            consonants: Initial consonants, such as «ㄱㅊㅉㄱ».
            limit: Maximum number of terms.

        Returns:
            Terms, most frequent first.
        """
        return sorted(self._by_initials.get(consonants, []), key=self.count, reverse=True)[:limit]

    def near(self, word: str, limit: int) -> list[Near]:
        """Find the terms that look like a word that may be misspelt.

        Args:
            word: NFC, lower case.
            limit: Maximum number of terms.

        Returns:
            Terms that differ in one letter, or two if the word is long enough, and that occur in at least
            `MIN_FREQUENCY_RATIO` times as many reviews; fewest errors first, then the most frequent.
        """
        letters = _letters(word)
        if len(letters) < MIN_LETTERS:
            return []
        errors = 1 if len(letters) < TWO_ERRORS_LETTERS else 2
        # A substitution changes two bits of the mask at most; this leaves some dozens of the terms to compare.
        plausible = (np.abs(self._lengths - len(letters)) <= errors) & (
            np.bitwise_count(self._masks ^ np.uint64(_mask(letters))) <= 2 * errors
        )
        least = max(1, MIN_FREQUENCY_RATIO * self.count(word))
        found = [
            Near(term, differing, self.count(term))
            for term in (self._terms[index] for index in np.flatnonzero(plausible).tolist())
            if self.count(term) >= least
            and term not in word
            and word not in term  # A word with a particle, or a part of a word, is not misspelt.
            and (differing := distance(letters, _letters(term), errors)) <= errors
        ]
        return sorted(found, key=lambda near: (near.errors, -near.reviews))[:limit]


def _letters(word: str) -> str:
    return jamo(word).translate(_HOMOPHONES)


def _mask(letters: Sequence[str]) -> int:
    mask = 0
    for char in letters:
        mask |= 1 << (ord(char) % 64)
    return mask
