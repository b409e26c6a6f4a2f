"""Whether a text has anything to be seen. Pure."""

import unicodedata

_BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and signs, by their category, that are drawn as nothing: the fillers of Hangul, and Braille without a dot."""
_INVISIBLE_CATEGORIES = frozenset(("Cc", "Cf", "Zs", "Zl", "Zp", "Mn", "Me"))
"""Categories: controls, what only shapes or joins others, blanks, and marks, which need a letter to stand on."""


def is_visible(text: str) -> bool:
    """Some character of it is more than a blank, a control, a joiner or a mark."""
    return any(one not in _BLANK_LETTERS and unicodedata.category(one) not in _INVISIBLE_CATEGORIES for one in text)
