"""The lexicon cut into stems and endings, for vocabularies in which a stem is one piece whatever follows it."""

from collections.abc import Iterator

from standins.korean import Predicate
from standins.lexicon import aspects


def _predicate_pieces(predicate: Predicate) -> Iterator[str]:
    """Stem and endings of every form, so that a stem keeps its vector whatever follows it."""
    *before, stem = predicate.stem.split()
    yield from before
    cut = len(stem) - 1 if stem.endswith("하") else len(stem)
    for form in predicate.forms.values():
        word = form.split()[len(before)]
        yield word[:cut]
        if len(word) > cut:
            yield "##" + word[cut:]


def morphemes() -> list[str]:
    """Pieces of the lexicon in a fixed order, each once; `##` marks one that continues a word."""
    pieces: dict[str, None] = {}
    for aspect in aspects().values():
        for group in aspect.groups:
            for predicate in (*group.praise, *group.blame):
                pieces.update(dict.fromkeys(_predicate_pieces(predicate)))
            for subject in group.subjects:
                pieces.update(dict.fromkeys(subject.split()))
    for form in Predicate("않").forms.values():
        pieces.update({"않": None, "##" + form[1:]: None})
    return list(pieces)
