"""Takes texts apart with Kiwi, a morphological analyzer of Korean (https://github.com/bab2min/Kiwi)."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from importlib.metadata import version

from kiwipiepy import Kiwi

from onecard.text import composed
from review_service.words.terms import Morpheme, Term, terms_of
from review_service.words.user_words import UserWords

TERMS_VERSION = 1
"""Incremented when the same text gets other terms, so that stored reviews are taken apart again."""
MIN_PART_LENGTH = 2
"""Minimum length of the parts of a word that Kiwi knows as one: with shorter ones «분위기» would have «위기»."""
MAX_CHUNK = 200
"""Maximum number of characters that Kiwi gets at once. Meanwhile no other thread runs: some 4 ms."""
_CACHED_WORDS = 65_536
_NOUN_TAGS = frozenset({"NNG", "NNP"})


class MorphemeAnalyzer:
    """Takes texts apart into terms. Loading takes 2 s and 340 MB; a review takes about 1 ms."""

    def __init__(self, user_words: UserWords) -> None:
        """Load Kiwi. It blocks: call it in a thread.

        Args:
            user_words: The operator's own words.
        """
        # Without the dictionary of names of several words, which takes another 180 MB.
        self._kiwi = Kiwi(num_workers=1, load_multi_dict=False)
        for word in user_words.words:
            self._kiwi.add_user_word(word, "NNP")
        self._user_words = user_words
        self._kiwi.tokenize("")  # Kiwi loads its model when it is first used.
        self._parts = lru_cache(_CACHED_WORDS)(self._take_apart)
        self.version = version_of(user_words)
        """Differs from another analyzer's if a text may get other terms."""

    def terms(self, text: str) -> list[Term]:
        """Take a text apart.

        Args:
            text: Any text.

        Returns:
            Its terms in the order of the text, whose offsets are those of its NFC.
        """
        return self.terms_of(self.morphemes(text))

    def morphemes(self, text: str) -> list[Morpheme]:
        """Take a text apart into morphemes, whose offsets are those of its NFC."""
        return [
            Morpheme(token.form, token.tag, token.lemma, start + token.start, start + token.end, not token.oov)
            for start, chunk in chunks(composed(text))
            for token in self._kiwi.tokenize(chunk)
        ]

    def terms_of(self, morphemes: Sequence[Morpheme]) -> list[Term]:
        """Turn morphemes into terms, as `terms` does."""
        return terms_of(morphemes, self._parts)

    def indexed(self, text: str, name: str | None = None) -> str:
        """Build what is stored for a review, and indexed.

        Args:
            text: The review.
            name: Name of its restaurant.

        Returns:
            Terms of both, separated by spaces.
        """
        return " ".join(term.text for part in (name, text) if part for term in self.terms(part))

    def _take_apart(self, word: str) -> Sequence[str]:
        given = self._user_words.parts(word)
        if given or len(word) < 2 * MIN_PART_LENGTH:
            return given
        # As a pair, because Kiwi would take what follows a slash in a word, as in a hashtag, for its tag.
        tokens = self._kiwi.tokenize(word, blocklist=[(word, "")])
        pieces = [token.form for token in tokens]
        if (
            len(pieces) > 1
            and all(token.tag in _NOUN_TAGS for token in tokens)
            and min(map(len, pieces)) >= MIN_PART_LENGTH
        ):
            return pieces
        return ()


def version_of(user_words: UserWords) -> str:
    """Compute the version of an analyzer, without loading Kiwi.

    Args:
        user_words: The operator's own words.

    Returns:
        12 hexadecimal digits; others if these words, Kiwi, its model or `TERMS_VERSION` are.
    """
    fields = (TERMS_VERSION, version("kiwipiepy"), version("kiwipiepy-model"), *user_words.lines)
    return blake2b(repr(fields).encode(), digest_size=6).hexdigest()


def chunks(text: str, size: int = MAX_CHUNK) -> Iterator[tuple[int, str]]:
    """Split a text at blanks.

    Args:
        text: Any text.
        size: Maximum length of a chunk in characters; a longer word is cut.

    Yields:
        The offset of each chunk, and the chunk. Together they are the text.
    """
    start = 0
    while start < len(text):
        end = start + size
        if end < len(text):
            blank = max(text.rfind(" ", start, end), text.rfind("\n", start, end))
            end = blank + 1 if blank >= start else end
        yield start, text[start:end]
        start = end
