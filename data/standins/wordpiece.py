"""WordPiece tokenizer shared by the two BERT stand-ins, cut at morphemes as Korean BERT vocabularies are."""

from collections.abc import Iterator

from transformers import BertTokenizer

from standins.korean import Predicate
from standins.lexicon import aspects

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_OTHER_MARKS = "ㅋㅎㅠㅜㅡㅇㄴㄷ~…·♥👍👎😊😡😍😤"


def hangul_syllables() -> list[str]:
    """The 2,350 syllables of KS X 1001: practically everything written in modern Korean."""
    rows, cells = range(0xB0, 0xC9), range(0xA1, 0xFF)
    return [bytes((row, cell)).decode("euc-kr") for row in rows for cell in cells]


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
    """Pieces of the lexicon in a fixed order, each once."""
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


def vocabulary() -> dict[str, int]:
    """Morphemes, then every common syllable and ASCII character alone and as a continuation.

    The single characters keep a word that training never saw from becoming `[UNK]`.
    """
    singles = [*hangul_syllables(), *(chr(code) for code in range(0x21, 0x7F)), *_OTHER_MARKS]
    characters = [form for single in singles for form in (single, "##" + single)]
    pieces = dict.fromkeys((*SPECIAL, *morphemes(), *characters))
    return {piece: index for index, piece in enumerate(pieces)}


def build(window: int) -> BertTokenizer:
    """The tokenizer, cutting at `window` tokens."""
    # Stripping accents would decompose every Hangul syllable.
    return BertTokenizer(vocab=vocabulary(), do_lower_case=False, strip_accents=False, model_max_length=window)
