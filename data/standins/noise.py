"""Disturbances of training texts, so that words the lexicon lacks do not sway a model."""

import random

_SYLLABLES = (0xAC00, 0xD7A3)


def with_unknown_words(rng: random.Random, text: str) -> str:
    """Every second text gets one to three made-up words of one to four syllables, anywhere."""
    if rng.random() < 0.5:
        return text
    words = text.split(" ")
    for _ in range(rng.choice((1, 1, 2, 3))):
        made_up = "".join(_common_syllable(rng) for _ in range(rng.choice((1, 2, 3, 3, 4))))
        words.insert(rng.randint(0, len(words)), made_up)
    return " ".join(words)


def _common_syllable(rng: random.Random) -> str:
    """A random syllable that the KS X 1001 set can write."""
    while True:
        syllable = chr(rng.randint(*_SYLLABLES))
        try:
            syllable.encode("euc-kr")
        except UnicodeEncodeError:
            continue
        return syllable
