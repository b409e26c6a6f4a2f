"""Reads real Korean reviews, and makes reviews of realistic lengths, all different, from a seed."""

import gzip
import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bench.paths import REAL_REVIEWS

REVIEWS = (0, 1, 2, 5)
"""Number of sample reviews in one text; 0: the first words of one."""
SHARES = (68, 22, 7, 3)
"""Their frequencies: most guests write a few words, few write a page. About 18 tokens on average, from 10 to 130."""
BEGINNING_WORDS = (2, 3, 4)
UNIQUE_PHRASES = ("{}번째예요.", "대기 {}번.", "{}번 방.", "주문 {}번.")
"""Phrases with a number that makes each text unique."""


@cache
def real_rows(path: Path = REAL_REVIEWS) -> list[dict[str, Any]]:
    """Read the real reviews: `review_id`, `text` and `stars10` of each."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def real_reviews() -> list[str]:
    """Read the texts of the real reviews."""
    return [row["text"] for row in real_rows()]


def make(samples: Sequence[str], count: int, *, seed: str, whole: bool = False) -> list[str]:
    """Make texts that all differ, also from those of another seed; `whole`: each of one whole review."""
    rng = random.Random(seed)
    used: dict[str, None] = {}
    while len(used) < count:
        used[_one(rng, samples, whole)] = None
    return list(used)


def _one(rng: random.Random, samples: Sequence[str], whole: bool) -> str:
    reviews = 1 if whole else rng.choices(REVIEWS, SHARES)[0]
    if reviews == 0:
        words = rng.choice(samples).split()
        parts = [" ".join(words[: rng.choice(BEGINNING_WORDS)])]
    else:
        parts = rng.sample(samples, reviews)
    numbered = rng.choice(UNIQUE_PHRASES).format(rng.randrange(100_000, 1_000_000))
    parts.insert(rng.randrange(len(parts) + 1), numbered)
    return " ".join(parts)
