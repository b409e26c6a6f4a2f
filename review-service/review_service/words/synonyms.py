"""Synonyms and spellings, in the format of Solr and Elasticsearch, stop words, and antonyms. Pure.

돈까스, 돈가스, 돈카츠       each is also found by the others
소세지 => 소시지            a search for the first also finds the second
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from review_service.words.polarity import Antonyms, parse_antonyms
from review_service.words.terms import normalize
from review_service.words.user_words import lines_of


@dataclass(frozen=True)
class SearchWords:
    """What is applied to queries. It can change at any time, because no review is stored differently for it."""

    synonyms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The other terms that a term also finds."""
    stop_words: frozenset[str] = frozenset()
    """Terms of queries that are ignored, unless a query has no other."""
    antonyms: Antonyms = field(default_factory=dict)
    """Pairs of words that mean the opposite."""
    version: str = ""
    """Differs if a search may find something else; part of cache keys."""


def parse_search_words(synonyms: str, stop_words: str, antonyms: str) -> SearchWords:
    """Parse all three files.

    Args:
        synonyms: Lines as above. Empty lines and what follows a `#` are ignored.
        stop_words: Words separated by whitespace, with comments as above.
        antonyms: See `parse_antonyms`.

    Returns:
        What is applied to queries.

    Raises:
        ValueError: A line of antonyms cannot be read.
    """
    found: dict[str, dict[str, None]] = {}
    for line in lines_of(synonyms):
        left, arrow, right = line.partition("=>")
        sources, targets = _terms(left), _terms(right if arrow else left)
        for source in sources:
            found.setdefault(source, {}).update(dict.fromkeys(target for target in targets if target != source))
    return SearchWords(
        {term: tuple(others) for term, others in found.items() if others},
        frozenset(normalize(word) for line in lines_of(stop_words) for word in line.split()),
        parse_antonyms(antonyms),
        blake2b(f"{synonyms}\0{stop_words}\0{antonyms}".encode(), digest_size=6).hexdigest(),
    )


def _terms(text: str) -> list[str]:
    return [term for part in text.split(",") if (term := normalize(part))]
