"""WordPiece tokenizer shared by the two BERT stand-ins, cut at morphemes as Korean BERT vocabularies are."""

from transformers import BertTokenizer

from standins.morphemes import morphemes

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_OTHER_MARKS = "ㅋㅎㅠㅜㅡㅇㄴㄷ~…·♥👍👎😊😡😍😤"


def hangul_syllables() -> list[str]:
    """The 2,350 syllables of KS X 1001: practically everything written in modern Korean."""
    rows, cells = range(0xB0, 0xC9), range(0xA1, 0xFF)
    return [bytes((row, cell)).decode("euc-kr") for row in rows for cell in cells]


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
