"""What search is tuned and measured with: queries to tune it on, and what every sample review says.

Apart from `corpus`, whose code is part of the models' recipe.
"""
# ruff: noqa: S311 (seeded on purpose: nothing here is secret)

import random
from collections.abc import Sequence

from standins.corpus import REVIEWS_PER_RESTAURANT, SEED, Row, _review_row, label, make_review, restaurant_opinions
from standins.grammar import Opinion, Phrase, _fields, every_opinion, frames_of, phrases
from standins.restaurants import RESTAURANTS


def sample_opinions() -> dict[str, frozenset[Opinion]]:
    """Review id → what the sample review says. A review's sentiment is that of the whole; one in four of the opinions
    in the sample goes against it."""
    rng = random.Random(SEED)
    said: dict[str, frozenset[Opinion]] = {}
    seen: set[str] = set()
    for number, place in enumerate(RESTAURANTS, 1):
        while len(said) < number * REVIEWS_PER_RESTAURANT:
            review = make_review(rng, restaurant_opinions(rng, place), dishes=place.dishes)
            if review.text in seen:
                continue
            seen.add(review.text)
            row = _review_row(rng, place, review, len(said) + 1)
            said[str(row["review_id"])] = frozenset(review.opinions)
    return said


def tuning_queries(held_out: Sequence[Row], plain: int = 20, negated: int = 3) -> list[Row]:
    """Queries like the held-out ones, of phrases that these do not have, and in training's frames.

    Neither the reviews nor the encoder's training have the phrases, as with the held-out queries. Opinions of which the
    held-out queries have every phrase are left out.

    Args:
        held_out: rows of `heldout_queries.jsonl`.
        plain: at most so many for an opinion.
        negated: at most so many more that negate its opposite; the held-out queries have about one in eight.
    """
    rng = random.Random(SEED + 3)
    taken = {str(row["text"]) for row in held_out}
    rows: list[Row] = []
    for opinion in every_opinion():
        opposite = opinion._replace(positive=not opinion.positive)
        own, turned = _unused(opinion, taken), [p for p in _unused(opposite, taken) if p.predicate.negatable]
        texts = sorted(_texts(own, held_out=False))
        turned_texts = sorted(_texts([Phrase(opinion, p.subject, p.predicate, True) for p in turned], held_out=False))
        if not texts:
            continue
        chosen = rng.sample(texts, min(plain, len(texts))) + rng.sample(turned_texts, min(negated, len(turned_texts)))
        rows += [
            {"text": text, "aspect": opinion.aspect, "sentiment": label(opinion.positive)}
            for text in dict.fromkeys(chosen)
        ]
    return rows


def _unused(opinion: Opinion, taken: set[str]) -> list[Phrase]:
    """Held-out phrases of an opinion that none of the texts asks for, as they are or negated."""
    found = []
    for phrase in phrases(opinion.aspect, opinion.positive, True):
        both = [phrase, Phrase(phrase.opinion, phrase.subject, phrase.predicate, True)]
        if not _texts(both, held_out=True) & taken:
            found.append(phrase)
    return found


def _texts(said: Sequence[Phrase], *, held_out: bool) -> set[str]:
    # One frame of training's only asks how something is.
    frames = [frame for frame in frames_of(held_out).query if "{adn}" in frame or "{yo}" in frame]
    return {frame.format(**_fields(phrase)) for phrase in said for frame in frames}
