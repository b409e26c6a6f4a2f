"""Checks whether a text has a visible character. Pure."""

import unicodedata

_BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Blank characters that Unicode counts as letters or symbols: the Hangul fillers, and Braille without a dot."""
_INVISIBLE_CATEGORIES = frozenset(("Cc", "Cf", "Zs", "Zl", "Zp", "Mn", "Me"))
"""Unicode categories of controls, format characters, separators, and combining marks, which need a base character."""


def is_visible(text: str) -> bool:
    """Whether a character of the text is more than a blank, a control, a format character or a combining mark."""
    return any(char not in _BLANK_LETTERS and unicodedata.category(char) not in _INVISIBLE_CATEGORIES for char in text)
