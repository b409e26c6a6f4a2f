"""Which texts are the same and which are empty, for everything that is encoded, classified or searched. Pure."""

import unicodedata

_BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Blank characters that Unicode counts as letters or symbols: the Hangul fillers, and Braille without a dot."""
_INVISIBLE_CATEGORIES = frozenset(("Cc", "Cf", "Zs", "Zl", "Zp", "Mn", "Me"))
"""Unicode categories of controls, format characters, separators, and combining marks, which need a base character."""


def is_visible(text: str) -> bool:
    """Whether a character of the text is more than a blank, a control, a format character or a combining mark."""
    return any(char not in _BLANK_LETTERS and unicodedata.category(char) not in _INVISIBLE_CATEGORIES for char in text)


def composed(text: str) -> str:
    """The text in Unicode's composed form (NFC), in which two texts that look the same are the same characters.

    macOS hands out file names and some input decomposed: a syllable as two or three letters, which a model reads as
    something else. NFKC would go further and change what is seen (½, ㎏, ①), so it is left to each tokenizer.

    Args:
        text: as it was written.

    Returns:
        The composed text; the same object if it is composed already.
    """
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)
