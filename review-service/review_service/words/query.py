"""Takes a query apart: into phrases, terms, and what is looked for instead of words that no review has. Pure.

A word is looked for letter by letter where its morphemes find too little. The rule, for each word of a query:

1. Initial consonants alone («ㄱㅊㅉㄱ») stand for the terms that have them, the most frequent `MAX_INITIALS`.
2. Latin letters that no review has, and that are Korean on the keyboard's other set («rlacl»), are taken as Korean if
   the reviews have it.
3. A noun that no dictionary has, and fewer than `MIN_REVIEWS` reviews, stands for the terms that look like it
   («짬봉»), at most `MAX_NEAR`, as `Vocabulary.near` finds them.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from onecard.text import composed, is_visible
from review_service.words.letters import from_latin_keys, is_initials
from review_service.words.polarity import Opposition
from review_service.words.synonyms import SearchWords
from review_service.words.terms import COMPOUND, NOUNS, PART, Term, normalize
from review_service.words.vocabulary import Near, Vocabulary

MIN_REVIEWS = 3
MAX_NEAR = 3
MAX_INITIALS = 5
MAX_TERMS = 32
"""Maximum number of terms of a query; those of a longer one are left out, and matter to its meaning alone."""
MAX_LOOKUPS = 16
"""Maximum number of times that terms are looked for that look like a word of a query, which takes some milliseconds."""
MIN_KEYS = 3
"""Minimum length of Latin letters that may have been typed on the wrong keyboard."""

Reason = Literal["word", "part", "compound", "spelling", "initials", "keyboard"]
TakeApart = Callable[[str], Sequence[Term]]
"""`MorphemeAnalyzer.terms`."""

_PHRASE = re.compile(r'"([^"]+)"|“([^“”]+)”')
_PICTURE = "So"
"""Unicode's category of emoji and other symbols that no keyboard has."""
_WORD = re.compile(r"\S+")
_PARTICLE = re.compile(r"(?:은|는|이|가|을|를|의|에|도|만|로|으로|와|과|랑|이랑|에서)$")


@dataclass(frozen=True)
class QueryTerm:
    """A term of a query, with the other terms that stand for it."""

    text: str
    word: str
    """The part of the query that it comes from."""
    reason: Reason
    synonyms: tuple[str, ...] = ()
    """Terms that are looked for as well."""

    @property
    def alternatives(self) -> tuple[str, ...]:
        """The term and its synonyms."""
        return (self.text, *self.synonyms)


@dataclass(frozen=True)
class ParsedQuery:
    """A query, taken apart."""

    text: str
    """NFC, without quotation marks, with the words that were read as others replaced."""
    corrected: bool
    """Whether a word was replaced."""
    phrases: tuple[str, ...]
    """What each result must have word for word, without repetitions."""
    terms: tuple[QueryTerm, ...]
    """Different terms, at most `MAX_TERMS`; empty if the query has no word."""
    opposition: Opposition = field(default_factory=Opposition)
    """Finds texts that say the opposite."""

    def weights(self, vocabulary: Vocabulary) -> dict[str, float]:
        """Weigh the terms to look for.

        Args:
            vocabulary: The terms of the stored reviews.

        Returns:
            The weight of each term to look for. A term and its synonyms weigh as much as the most frequent of
            them: a rare synonym is no better than the word itself.
        """
        weights: dict[str, float] = {}
        for term in self.terms:
            weight = _weight(term, vocabulary)
            for text in term.alternatives:
                weights[text] = max(weight, weights.get(text, 0.0))
        return weights

    def ideal_score(self, vocabulary: Vocabulary) -> float:
        """Compute the BM25 score of an average review that has each term once, or a synonym of it.

        Args:
            vocabulary: The terms of the stored reviews.

        Returns:
            Sum of the terms' weights; 0 without terms. A term with synonyms weighs as much as the most frequent of
            them, so that a review with any of them covers it. Parts of a compound that no review has do not count if
            reviews have the compound by another name.
        """
        return sum(_weight(term, vocabulary) for term in self._counted(vocabulary))

    def known_share(self, vocabulary: Vocabulary) -> float:
        """Compute the share of the terms that any review has, by weight.

        Args:
            vocabulary: The terms of the stored reviews.

        Returns:
            From 0 to 1; 1 while the terms of no review are counted. Without terms it is 1 for pictures, such as an
            emoji, and 0 for what may be any keys.
        """
        if not vocabulary.reviews:
            return 1.0
        if not self.terms:
            return float(any(unicodedata.category(char) == _PICTURE for char in self.text))
        known = [term for term in self.terms if _is_known(term, vocabulary)]
        return sum(_weight(term, vocabulary) for term in known) / self.ideal_score(vocabulary)

    def _counted(self, vocabulary: Vocabulary) -> list[QueryTerm]:
        known: dict[str, list[str]] = {}
        for term in self.terms:
            if _is_known(term, vocabulary):
                known.setdefault(term.word, []).append(term.text)
        return [
            term
            for term in self.terms
            if _is_known(term, vocabulary) or not any(term.text in whole for whole in known.get(term.word, ()))
        ]


@dataclass(frozen=True)
class _Reading:
    """A word of the query as it is read."""

    word: str
    text: str
    terms: tuple[QueryTerm, ...] | None
    """None: its morphemes."""


class QueryParser:
    """Takes queries apart, one at a time."""

    def __init__(self, take_apart: TakeApart, vocabulary: Vocabulary, words: SearchWords) -> None:
        """Use the analyzer's terms, the terms of the stored reviews, and the operator's words."""
        self._take_apart = take_apart
        self._vocabulary = vocabulary
        self._words = words
        self._looked_up: dict[str, list[Near]] = {}

    def parse(self, query: str) -> ParsedQuery:
        """Take a query apart.

        Args:
            query: The query's text.

        Returns:
            Its phrases and terms.
        """
        self._looked_up.clear()
        text = composed(query)
        quoted = [(match[1] or match[2]).strip() for match in _PHRASE.finditer(text)]
        phrases = tuple(dict.fromkeys(filter(is_visible, quoted)))
        plain = " ".join(_PHRASE.sub(r" \1\2 ", text).split())
        typed = [self._by_keys(word) for word in _WORD.findall(plain)]
        text = " ".join(reading.text for reading in typed)
        spelled = self._by_spelling(text, typed)
        terms = [term for reading in spelled for term in reading.terms or ()]
        final = " ".join(reading.text for reading in spelled)
        opposition = Opposition.to([term.text for term in terms], self._words.antonyms, self._words.stop_words)
        return ParsedQuery(final, final != plain, phrases, self._with_synonyms(terms), opposition)

    def _by_keys(self, word: str) -> _Reading:
        if is_initials(word) and (found := self._vocabulary.with_initials(word, MAX_INITIALS)):
            best, *others = found
            terms = self._terms_of(best, word, "initials")
            first = QueryTerm(best, word, "initials", tuple(others))
            return _Reading(word, best, (first, *terms[1:]))
        if len(word) >= MIN_KEYS and not self._vocabulary.count(word.lower()) and (korean := from_latin_keys(word)):
            terms = self._terms_of(korean, word, "keyboard")
            if terms and all(self._vocabulary.count(term.text) for term in terms):
                return _Reading(word, korean, terms)
            if near := self._near(korean, word):
                return near
        return _Reading(word, word, None)

    def _by_spelling(self, text: str, typed: Sequence[_Reading]) -> list[_Reading]:
        found = self._take_apart(text)
        readings, start = [], 0
        for reading in typed:
            end = start + len(reading.text)
            if reading.terms is None:
                terms = [term for term in found if start <= term.start and term.end <= end]
                reading = self._spelled(reading.word, terms)
            readings.append(reading)
            start = end + 1
        return readings

    def _spelled(self, word: str, terms: Sequence[Term]) -> _Reading:
        nouns = [term for term in terms if term.tag in NOUNS or term.tag == COMPOUND]
        whole = max(nouns, key=lambda term: len(term.text), default=None)
        if whole is not None and not whole.known:
            # Kiwi may take the end of an unknown word for a particle or an ending: «찌게».
            for candidate in dict.fromkeys((whole.text, normalize(_PARTICLE.sub("", word)), normalize(word))):
                if self._vocabulary.count(candidate) < MIN_REVIEWS and (near := self._near(candidate, word)):
                    return near
        return _Reading(word, word, tuple(QueryTerm(term.text, word, _reason(term)) for term in terms))

    def _near(self, candidate: str, word: str) -> _Reading | None:
        if candidate not in self._looked_up and len(self._looked_up) < MAX_LOOKUPS:
            self._looked_up[candidate] = self._vocabulary.near(candidate, MAX_NEAR)
        near = self._looked_up.get(candidate)
        if not near:
            return None
        best = near[0].term
        others = tuple(other.term for other in near[1:] if other.errors == near[0].errors)
        own = (candidate,) if self._vocabulary.count(candidate) else ()
        first, *parts = self._terms_of(best, word, "spelling") or (QueryTerm(best, word, "spelling"),)
        return _Reading(word, best, (QueryTerm(first.text, word, "spelling", (*own, *others)), *parts))

    def _terms_of(self, text: str, word: str, reason: Reason) -> tuple[QueryTerm, ...]:
        return tuple(QueryTerm(term.text, word, reason) for term in self._take_apart(text))

    def _with_synonyms(self, terms: Iterable[QueryTerm]) -> tuple[QueryTerm, ...]:
        different: dict[str, QueryTerm] = {}
        for term in terms:
            different.setdefault(term.text, term)
        kept = [term for term in different.values() if term.text not in self._words.stop_words]
        return tuple(
            QueryTerm(term.text, term.word, term.reason, (*term.synonyms, *self._words.synonyms.get(term.text, ())))
            for term in (kept or list(different.values()))[:MAX_TERMS]
        )


def _is_known(term: QueryTerm, vocabulary: Vocabulary) -> bool:
    return any(map(vocabulary.count, term.alternatives))


def _weight(term: QueryTerm, vocabulary: Vocabulary) -> float:
    return vocabulary.weight(max(term.alternatives, key=vocabulary.count))


def _reason(term: Term) -> Reason:
    if term.tag == PART:
        return "part"
    return "compound" if term.tag == COMPOUND else "word"
