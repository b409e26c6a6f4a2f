"""Splits a review into clauses, each of which says one thing about one subject. Pure.

A clause ends with its sentence, before a conjunction («하지만», «다만»), and after a connective ending: one of contrast
(«지만», «는데»), but not where it only tells what happened («친구랑 갔는데»), or one of addition («고»), if what
follows has a subject of its own. Cause and condition («좁아서 불편해요») stay together: they are one judgement.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import pairwise

from onecard.text import is_visible
from review_service.words.terms import Morpheme

_CONTRAST = frozenset({"지만", "지마는", "으나", "나", "건만"})
"""Endings after which the opposite is said."""
_BACKGROUND = frozenset({"는데", "은데", "ㄴ데", "던데", "는데도", "은데도", "ㄴ데도"})
"""Endings of contrast that may also tell what happened before."""
_ADDITION = frozenset({"고", "구", "으며", "며", "더니", "거니와", "어도", "아도", "여도"})
"""Endings that join what one subject does, or what two do."""
_OPENING_ADVERBS = frozenset({"다만", "그나마"})
"""Adverbs that open a clause, as conjunctions do."""
_POLITE = ("어요", "아요", "여요", "네요", "에요", "예요", "습니다", "ᆸ니다")
"""Endings of sentences that Kiwi takes for connective ones before a comma."""
_SUBJECT_PARTICLES = frozenset({"은", "는", "도", "ᆫ"})
_NOMINALS = frozenset({"NNG", "NNP", "NNB", "NP", "NR", "XSN", "ETN", "SL", "XR", "SN"})
_STATES = frozenset({"VA", "XSA", "VCP", "VCN"})
"""Tags of predicates that say what something is like."""
_PREDICATES = _STATES | {"VV", "XSV", "VX"}
_CONTENT = frozenset({"NNG", "NNP", "XR", "SL", "VV", "VA", "VCN", "IC"})
_CLOSING = frozenset({"SP", "SF", "SE", "SW", "SSC", "W_EMOJI"})
"""Tags of what follows the last word of a clause, and belongs to it."""
_STOPS = _CLOSING - {"SP", "SSC"}


@dataclass(frozen=True)
class Span:
    """A part of a text."""

    start: int
    end: int
    """Offset after its last character."""


def split_clauses(text: str, morphemes: Sequence[Morpheme]) -> list[Span]:
    """Split a text into clauses.

    Args:
        text: The text in NFC.
        morphemes: Its morphemes in order.

    Returns:
        The clauses in order. Together they are the text, and each has content, unless the whole text has none.
    """
    morphemes = _with_joined_endings(morphemes)
    cuts, first, read = [0], 0, _Read()
    for place in range(1, len(morphemes)):
        left, right = morphemes[first:place], morphemes[place:]
        read = read.with_last_of(left)
        if right[0].start > cuts[-1] and _is_cut(left, right, read) and read.content and _has_content(right):
            cuts.append(right[0].start)
            first, read = place, _Read()
    return [Span(start, end) for start, end in pairwise([*cuts, len(text)])] if text else []


@dataclass(frozen=True)
class _Read:
    """What a clause has, as far as it was read. Looked for once a morpheme: a text without an end may be long."""

    content: bool = False
    subject: bool = False
    state: bool = False
    predicate: bool = False

    def with_last_of(self, left: Sequence[Morpheme]) -> "_Read":
        tag = _tag(left[-1])
        return _Read(
            content=self.content or _is_content(left[-1]),
            subject=self.subject or _has_subject(left[-2:]),
            state=self.state or tag in _STATES,
            predicate=self.predicate or tag in _PREDICATES,
        )


def _is_cut(left: Sequence[Morpheme], right: Sequence[Morpheme], read: _Read) -> bool:
    """Whether a clause ends between two parts of a text."""
    following = right[0]
    if following.tag in _CLOSING or (following.tag == "JX" and following.start == left[-1].end):
        return False
    closing = len(left)
    while closing and left[closing - 1].tag in _CLOSING:
        closing -= 1
    said, marks = left[:closing], left[closing:]
    if not said:
        return False
    polite = said[-1].tag == "JX" and len(said) > 1 and said[-2].tag in ("EC", "EF")
    words = said[:-1] if polite else said
    spaced = following.start > left[-1].end
    if _ends_sentence(words[-1], marks, polite=polite, spaced=spaced):
        return True
    if following.tag == "MAJ" or following.form in _OPENING_ADVERBS:
        return read.predicate
    return _tag(following) != "VX" and words[-1].tag == "EC" and _is_connected(words[-1], right, read)


def _with_joined_endings(morphemes: Sequence[Morpheme]) -> list[Morpheme]:
    """Kiwi takes some «은데» for a noun of place, which has a blank before it or a particle behind it: «차 댈 데가»."""
    joined: list[Morpheme] = []
    for place, morpheme in enumerate(morphemes):
        particle = morphemes[place + 1 : place + 2] and morphemes[place + 1].tag[0] == "J"
        if morpheme.form == "데" and joined and not particle:
            before = joined[-1]
            if before.tag == "ETM" and before.end == morpheme.start:
                joined[-1] = replace(before, form="ㄴ데", tag="EC", end=morpheme.end)
                continue
        if morpheme.form == "하지만" and joined and joined[-1].end == morpheme.start:  # «고생하지만»
            morpheme = replace(morpheme, form="지만", tag="EC")
        joined.append(morpheme)
    return joined


def _ends_sentence(last: Morpheme, marks: Sequence[Morpheme], *, polite: bool, spaced: bool) -> bool:
    if last.tag == "EF":
        return True
    if last.tag == "EC" and marks:
        return polite or last.form.endswith(_POLITE)
    # «최고! 사장님도 …», and not «음식이... 별로».
    return spaced and last.tag[0] != "J" and any(mark.tag in _STOPS for mark in marks)


def _is_connected(last: Morpheme, right: Sequence[Morpheme], read: _Read) -> bool:
    """Whether something else is said after a connective ending."""
    ending = last.form.replace("ᆫ", "ㄴ")
    if ending in _CONTRAST:
        return True
    following = _until_ending(right)
    if not read.subject and not read.state:
        return ending in _BACKGROUND and _has_subject(following, {"JX"})
    return ending in _BACKGROUND or (ending in _ADDITION and _has_subject(following))


def _has_subject(morphemes: Sequence[Morpheme], tags: AbstractSet[str] = frozenset({"JKS", "JX"})) -> bool:
    """Whether there is a noun with a particle of a subject (JKS) or of a topic (JX)."""
    return any(
        morpheme.tag in tags
        and (morpheme.tag == "JKS" or (morpheme.form in _SUBJECT_PARTICLES and before.tag in _NOMINALS))
        for before, morpheme in pairwise(morphemes)
    )


def _until_ending(morphemes: Sequence[Morpheme]) -> Sequence[Morpheme]:
    ends = (place for place, morpheme in enumerate(morphemes) if morpheme.tag in ("EC", "EF"))
    return morphemes[: next(ends, len(morphemes))]


def _has_content(morphemes: Sequence[Morpheme]) -> bool:
    return any(map(_is_content, morphemes))


def _is_content(morpheme: Morpheme) -> bool:
    # Kiwi takes an invisible character, as pasted text has them, for a noun; models refuse a clause of such ones alone.
    return _tag(morpheme) in _CONTENT and is_visible(morpheme.form)


def _tag(morpheme: Morpheme) -> str:
    """Kiwi's tag without the suffix of irregular verbs (VA-I)."""
    return morpheme.tag.partition("-")[0]
