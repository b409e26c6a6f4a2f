"""Turns the morphemes of a text into terms: what is stored for each review and looked for by each search. Pure.

A term is a noun, a root or a foreign word as it is, or the dictionary form of a verb or an adjective («좋았어요» →
«좋다»). Particles and endings are left out. A compound is taken apart and kept, as Elasticsearch's nori does it
in its mode `mixed`: «부대찌개» is «부대찌개», «부대» and «찌개», whether Kiwi knows it as one word or as two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onecard.text import composed

NOUNS = frozenset({"NNG", "NNP", "NNB", "NR", "XR", "SL", "SH", "SN", "W_HASHTAG"})
"""Kiwi's tags of what is indexed as it is: nouns, numerals, roots, foreign words, digits."""
_COMPOUND_TAGS = frozenset({"NNG", "NNP", "SL", "XPN", "SN", "NR"})
"""Tags of what may be joined to a compound when it is written without a space."""
_PREDICATES = frozenset({"VV", "VA", "VX", "VCN"})
"""Tags of what is indexed in its dictionary form."""
_WITH_ROOT = frozenset({"VV", "VA"})
_ADVERBS = "MAG"
MAX_JOINED = 4
"""Maximum number of nouns of a compound. A text without spaces may have long runs of nouns, which nobody looks for."""
MAX_TERM_LENGTH = 30
"""Longer terms are left out. LanceDB's tokenizer leaves out what is longer than 40."""


@dataclass(frozen=True)
class Morpheme:
    """A morpheme of a text, as Kiwi gives it."""

    form: str
    tag: str
    lemma: str
    start: int
    """Offset of its first character in the text."""
    end: int
    """Offset after its last character."""
    known: bool = True
    """Whether Kiwi's dictionary or the operator's has it."""


@dataclass(frozen=True)
class Term:
    """A term, and the part of the text that it stands for."""

    text: str
    start: int
    end: int
    tag: str
    """Kiwi's tag, or `PART` or `COMPOUND` for what comes of a compound."""
    known: bool = True
    """Whether a dictionary has it, or has all nouns that are written as one word, and one of them is no syllable."""


PART = "part"
"""Tag of a part of a word."""
COMPOUND = "compound"
"""Tag of nouns that are written as one word."""


def terms_of(morphemes: Sequence[Morpheme], parts: Callable[[str], Sequence[str]]) -> list[Term]:
    """Turn the morphemes of a text into its terms.

    Args:
        morphemes: Morphemes in the order of the text.
        parts: Takes a noun apart; returns no parts for one that is no compound.

    Returns:
        The terms in the order of the text. The same term may come several times.
    """
    terms: list[Term] = []
    run: list[Morpheme] = []
    for morpheme in morphemes:
        if run and not (morpheme.tag in _COMPOUND_TAGS and morpheme.start == run[-1].end):
            terms += _joined(run)
            run = []
        if morpheme.tag in _COMPOUND_TAGS:
            run.append(morpheme)
        terms += _single(morpheme, parts)
    return [term for term in terms + _joined(run) if len(term.text) <= MAX_TERM_LENGTH]


def _single(morpheme: Morpheme, parts: Callable[[str], Sequence[str]]) -> list[Term]:
    tag = morpheme.tag.partition("-")[0]  # Irregular verbs have a suffix: VA-I.
    if tag in NOUNS:
        word = normalize(morpheme.form)
        pieces = [Term(piece, morpheme.start, morpheme.end, PART) for piece in parts(word)]
        # A hashtag may consist of punctuation alone.
        return [Term(word, morpheme.start, morpheme.end, tag, morpheme.known), *pieces] if _is_word(word) else []
    if tag in _PREDICATES:
        word = normalize(morpheme.lemma)
        # Kiwi takes «조용한» apart into root and suffix, and «조용해요» not: both are found by the root.
        root = word.removesuffix("하다") if tag in _WITH_ROOT and len(word) > len("하다") + 1 else word
        return [Term(root, morpheme.start, morpheme.end, tag)]
    return [Term(normalize(morpheme.form), morpheme.start, morpheme.end, tag)] if tag == _ADVERBS else []


def _joined(run: Sequence[Morpheme]) -> list[Term]:
    if not 1 < len(run) <= MAX_JOINED:
        return []
    word = normalize("".join(morpheme.form for morpheme in run))
    # Kiwi takes a misspelt word apart into syllables, each of which is some noun: «짬봉».
    known = all(morpheme.known for morpheme in run) and max(len(morpheme.form) for morpheme in run) > 1
    return [Term(word, run[0].start, run[-1].end, COMPOUND, known)]


def _is_word(term: str) -> bool:
    return any(map(str.isalnum, term))


def normalize(word: str) -> str:
    """Bring a word to the form of terms: NFC, lower case, without whitespace."""
    return "".join(composed(word).lower().split())
