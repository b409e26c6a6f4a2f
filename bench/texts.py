"""Korean reviews of realistic lengths, none of them ever seen before. Pure functions of a seed."""

import random
from collections.abc import Sequence

REVIEWS = (0, 1, 2, 5)
"""How many sample reviews one text holds; 0 is the beginning of one."""
SHARES = (68, 22, 7, 3)
"""How often: most guests write a few words, a few write a page. About 18 tokens on average, 10 to 130 at the ends."""
BEGINNING_WORDS = (2, 3, 4)
UNIQUE_PHRASES = ("{}번째예요.", "대기 {}번.", "{}번 방.", "주문 {}번.")
"""The phrase that makes a text unlike every other."""


def make(samples: Sequence[str], count: int, *, seed: str) -> list[str]:
    """`count` texts; no two are equal, and none equals one of another seed but by rare chance.

    Args:
        samples: reviews to build them from.
        seed: what they are for, such as a round and a cell; the same for every contender.
    """
    rng = random.Random(seed)
    used: dict[str, None] = {}
    while len(used) < count:
        used[_one(rng, samples)] = None
    return list(used)


def _one(rng: random.Random, samples: Sequence[str]) -> str:
    (reviews,) = rng.choices(REVIEWS, SHARES)
    if reviews == 0:
        words = rng.choice(samples).split()
        parts = [" ".join(words[: rng.choice(BEGINNING_WORDS)])]
    else:
        parts = rng.sample(samples, reviews)
    numbered = rng.choice(UNIQUE_PHRASES).format(rng.randrange(100_000, 1_000_000))
    parts.insert(rng.randrange(len(parts) + 1), numbered)
    return " ".join(parts)
